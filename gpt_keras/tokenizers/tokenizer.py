"""What every tokenizer of the package can do."""

import abc
import os
from typing import NamedTuple

import tensorflow as tf

from gpt_keras.tokenizers.post_processor import PostProcessor


class Tokens(NamedTuple):
    """Tokens of texts, and where in them they stand.

    Attributes:
      ids: (B, None) int32.
      starts, ends: (B, None) int32, bytes of the text as it was given, see
        `utf8.char_positions`. Tokens that share a character all have the whole of it; one that
        stands for nothing has an empty range.
    """

    ids: tf.RaggedTensor
    starts: tf.RaggedTensor
    ends: tf.RaggedTensor


class Tokenizer(tf.Module, abc.ABC):
    """Texts to token ids and back, by TensorFlow ops alone.

    Both directions work eagerly and inside a `tf.function`, and go into a SavedModel with the
    module that the tokenizer is an attribute of.

    Attributes:
      vocab_size: one more than the highest id.
      special_tokens: dict string -> id.
      bos_token_id, eos_token_id, pad_token_id, unk_token_id, mask_token_id: int or None.
      chat_template: Jinja source, or None.
      post_processor: the special tokens around a text, or around two, see there.
      token_bytes: (vocab_size,) string tensor, the bytes that each id stands for; "" for none.
    """

    vocab_size: int
    special_tokens: dict[str, int]
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    unk_token_id: int | None
    mask_token_id: int | None = None
    chat_template: str | None
    post_processor: PostProcessor
    token_bytes: tf.Tensor

    @abc.abstractmethod
    def tokenize(self, texts, allow_special=True) -> tf.RaggedTensor:
        """Token ids of texts, with none added at the beginning or the end.

        Args:
          texts: str or bytes (a batch of one), a sequence of them, or a (B,) string tensor. What is
            not valid UTF-8 is replaced by U+FFFD, as `bytes.decode(errors="replace")` does; see
            `is_valid_utf8`.
          allow_special: False reads a special token that is written in a text as plain text: for
            text that comes from strangers.

        Returns:
          (B, None) int32.

        Raises:
          ValueError: not a batch of strings.
        """

    @abc.abstractmethod
    def tokenize_with_offsets(self, texts, allow_special=True) -> Tokens:
        """As `tokenize`, with where in the texts the tokens stand, as Hugging Face has it.

        Raises:
          ValueError: see `tokenize`.
        """

    @tf.autograph.experimental.do_not_convert
    def encode(self, texts, max_length: int | None = None) -> tf.RaggedTensor:
        """Token ids of texts as a model takes them: with the special tokens of `post_processor`.

        As in Hugging Face, one that a text begins with already is there twice then.

        Args:
          texts: see `tokenize`.
          max_length: tokens; a longer text loses its end, none of the special tokens.

        Returns:
          (B, None) int32.

        Raises:
          ValueError: not a batch of strings, no room for the special tokens.
        """
        tokens, template = self.tokenize(texts), self.post_processor.single
        if max_length is not None:
            room = max_length - template.num_tokens
            if room < 0:
                raise ValueError(
                    f"max_length={max_length}: the tokenizer adds {template.num_tokens} special "
                    "tokens to a text"
                )
            tokens = tokens[:, :room]
        return template.ids(tokens)

    @abc.abstractmethod
    def detokenize(self, ids, skip_special_tokens=False, continues=False) -> tf.Tensor:
        """The bytes of token ids, joined.

        Args:
          ids: (B, T) or ragged (B, None) int32 or int64, or a list of lists.
          skip_special_tokens: leave special tokens out.
          continues: a text stands before these ids. Some tokenizers put a blank before a text and
            take it away again from what is one; from what goes on after a text they do not.

        Returns:
          (B,) string; not valid UTF-8 where a character is cut in two.

        Raises:
          ValueError: not a batch of integers.
          tf.errors.InvalidArgumentError: an id outside [0, vocab_size).
        """

    @abc.abstractmethod
    def id_to_token(self, token_id: int) -> str:
        """How the vocabulary writes a token. Raises ValueError for an unknown id."""

    @abc.abstractmethod
    def token_to_id(self, token: str) -> int | None:
        """Id of a token as the vocabulary writes it, or None."""

    @abc.abstractmethod
    def save(self, directory: str | os.PathLike) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json`, for `load` and Hugging Face's."""


def as_texts(texts) -> tf.Tensor:
    """(B,) string tensor of what `Tokenizer.tokenize` takes."""
    if isinstance(texts, (str, bytes)):
        texts = [texts]
    if isinstance(texts, (list, tuple)):
        for row, text in enumerate(texts):
            if not isinstance(text, (str, bytes)):
                break  # tensors and what else may become one
            at = _surrogate(text) if isinstance(text, str) else None
            if at is not None:
                raise ValueError(
                    f"text {row} holds the lone surrogate {text[at]!r} at {at}, which no UTF-8 "
                    'can hold: read the file with errors="replace"'
                )
        texts = texts if texts else tf.constant([], tf.string)
    try:
        texts = tf.convert_to_tensor(texts)
    except (TypeError, ValueError) as error:
        raise ValueError(f"texts: expected strings, received {_brief(texts)}") from error
    if texts.dtype != tf.string or texts.shape.rank not in (None, 0, 1):
        raise ValueError(
            f"texts: expected a batch of strings, shape (B,), received {texts.dtype.name} of shape "
            f"{texts.shape}"
        )
    return tf.reshape(texts, [1]) if texts.shape.rank == 0 else texts


def as_ids(ids) -> tf.RaggedTensor:
    """Ragged (B, None) int32 or int64 of what `Tokenizer.detokenize` takes."""
    if not isinstance(ids, tf.RaggedTensor):
        try:
            is_list = isinstance(ids, (list, tuple))
            ids = tf.ragged.constant(ids, tf.int32, 1) if is_list else tf.convert_to_tensor(ids)
        except (TypeError, ValueError) as error:
            raise ValueError(f"ids: expected rows of integers, received {_brief(ids)}") from error
        if isinstance(ids, tf.Tensor) and ids.shape.rank == 2:
            ids = tf.RaggedTensor.from_tensor(ids)
    is_rows = isinstance(ids, tf.RaggedTensor) and ids.ragged_rank == 1 and ids.shape.rank == 2
    if not is_rows or ids.dtype not in (tf.int32, tf.int64):
        raise ValueError(
            f"ids: expected rows of int32 or int64, shape (B, T) or ragged (B, None), received "
            f"{ids.dtype.name} of shape {ids.shape}"
        )
    return ids


def _surrogate(text):
    """Index of the first lone surrogate of a str, or None."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None


def _brief(value):
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
