"""Masking: which tokens of a text a masked language model is asked for.

Devlin et al., 2018, https://arxiv.org/abs/1810.04805, section 3.1 and, of whole words,
https://github.com/google-research/bert: of the tokens asked for, 8 in 10 become the mask token, 1
becomes another token and 1 stays.
"""

import dataclasses

import numpy as np

from gpt_keras.tokenizers import WordPiece

MASKED, REPLACED = 0.8, 0.1  # shares of the tokens asked for


@dataclasses.dataclass(frozen=True)
class Masking:
    """Masks rows of tokens.

    Attributes:
      mask_id: token that stands for one asked for.
      rate: share of a row's tokens that are asked for.
      ordinary: (V,) bool, tokens that may be asked for or replace others: no special ones.
      begins: (V,) bool, tokens that begin a word: words are asked for as a whole; None: tokens.
    """

    mask_id: int
    rate: float
    ordinary: np.ndarray
    begins: np.ndarray | None = None

    def places(self, length: int) -> int:
        """How many tokens of a row are asked for, at most."""
        return max(1, round(self.rate * length))

    def __call__(self, tokens: np.ndarray, rng: np.random.Generator):
        """Masks a row.

        Args:
          tokens: (T,) int.
          rng: decides all that is left to chance.

        Returns:
          tokens (T,) as the model is to see them, and the places of those asked for, ascending;
          none in a row of special tokens, or where no whole word is as short as that.
        """
        able = np.flatnonzero(self.ordinary[tokens])
        chosen = np.sort(self._choose(tokens, able, self.places(len(tokens)), rng))
        masked, kind = tokens.copy(), rng.random(len(chosen))
        masked[chosen[kind < MASKED]] = self.mask_id
        replaced = chosen[kind >= 1 - REPLACED]
        masked[replaced] = rng.choice(np.flatnonzero(self.ordinary), len(replaced))
        return masked, chosen

    def _choose(self, tokens, able, count, rng):
        if self.begins is None:
            return rng.permutation(able)[:count]
        # What stands behind a special token begins a word, whatever it is.
        begins = self.begins[tokens[able]] | (np.diff(able, prepend=-2) > 1)
        words = np.split(able, np.flatnonzero(begins)[1:]) if able.size else []
        chosen = []
        for i in rng.permutation(len(words)):
            if len(chosen) + len(words[i]) <= count:
                chosen += words[i].tolist()
        return np.array(chosen, int)


def ordinary_tokens(tokenizer, vocab_size: int) -> np.ndarray:
    """(V,) bool: ids that are tokens of the tokenizer and no special ones."""
    ordinary = np.arange(vocab_size) < tokenizer.vocab_size
    ordinary[list(tokenizer.special_tokens.values())] = False
    return ordinary


def word_starts(tokenizer, vocab_size: int) -> np.ndarray:
    """(V,) bool: tokens that begin a word.

    Of WordPiece those without "##"; of others those that begin with a blank, with punctuation or
    with a Chinese or Japanese character, which are words of their own.
    """
    starts = np.ones(vocab_size, bool)
    for i, token in enumerate(tokenizer.token_bytes.numpy()):
        if isinstance(tokenizer, WordPiece):
            starts[i] = not tokenizer.id_to_token(i).startswith("##")
        elif token:
            is_cjk = 0xE3 <= token[0] <= 0xE9  # first bytes of U+3000 to U+9FFF
            starts[i] = is_cjk or (token[0] < 0x80 and not token[:1].isalnum())
    return starts
