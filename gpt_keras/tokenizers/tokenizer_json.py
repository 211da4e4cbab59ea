"""`tokenizer.json`, the format of Hugging Face `tokenizers`."""

import dataclasses
import functools
import json

from gpt_keras.tokenizers import normalizer as normalizers
from gpt_keras.tokenizers import post_processor as post_processors
from gpt_keras.tokenizers import serde
from gpt_keras.tokenizers.byte_alphabet import ALPHABET

_MAX_ID = 2**24


@dataclasses.dataclass(frozen=True)
class BPEModel:
    """The model of a `tokenizer.json`.

    Attributes:
      vocab: token -> id; tokens are written in the byte alphabet or as they are.
      merges: pairs of tokens, best first.
      ignore_merges: a word that is in the vocabulary is that token, whatever the merges say.
      unk_token: what bytes or characters missing from the vocabulary become; None drops them.
      fuse_unk: a run of such bytes or characters becomes one unknown token.
      byte_fallback: characters missing from the vocabulary become the tokens <0xNN> of their bytes.
    """

    vocab: dict[str, int]
    merges: list[tuple[str, str]]
    ignore_merges: bool = False
    unk_token: str | None = None
    fuse_unk: bool = False
    byte_fallback: bool = False

    @property
    def unk_id(self) -> int | None:
        return None if self.unk_token is None else self.vocab[self.unk_token]


@dataclasses.dataclass(frozen=True)
class WordPieceModel:
    """The model of BERT's kind.

    Attributes:
      vocab: token -> id.
      unk_token: what a word becomes that has no tokens.
      prefix: begins the tokens that do not begin a word.
      max_chars: longer words become the unknown token.
    """

    vocab: dict[str, int]
    unk_token: str
    prefix: str
    max_chars: int


@dataclasses.dataclass(frozen=True)
class UnigramModel:
    """The model of T5's and XLM-R's kind.

    Attributes:
      vocab: token -> id.
      scores: of the tokens, in the order of their ids.
      unk_id: what a run of characters becomes that has no tokens.
      byte_fallback: or rather the tokens <0xNN> of its bytes.
    """

    vocab: dict[str, int]
    scores: tuple[float, ...]
    unk_id: int
    byte_fallback: bool


@dataclasses.dataclass(frozen=True)
class AddedToken:
    """A token that is found in the text before anything else happens to it.

    Attributes:
      content: the string.
      special: dropped by `skip_special_tokens`; may be kept from being found in a text.
      lstrip, rstrip: takes the white space before or after it with it.
      normalized: looked for, normalized, in the normalized text that the others leave.
      single_word: only where no letter or the like stands before or after it.
    """

    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    single_word: bool = False


@dataclasses.dataclass(frozen=True)
class TokenizerJson:
    """All of a `tokenizer.json` that decides ids and texts.

    Attributes:
      text: the file as it is.
      model: see there.
      added_tokens: token -> id.
      normalizer: see `normalizer.Normalizer`.
      pre_tokenizer, decoder: as the file has them.
      post_processor: see `post_processor.PostProcessor`.
    """

    text: bytes
    model: BPEModel | WordPieceModel | UnigramModel
    added_tokens: dict[AddedToken, int]
    normalizer: normalizers.Normalizer
    pre_tokenizer: dict | None
    decoder: dict | None
    post_processor: post_processors.PostProcessor

    # In here and not in the tokenizer itself: in each mapping that a tf.Module has, TensorFlow
    # looks for variables entry by entry, dozens of times while it saves a model.
    @functools.cached_property
    def ids(self) -> dict[str, int]:
        """Token -> id of all tokens."""
        return self.model.vocab | {token.content: i for token, i in self.added_tokens.items()}

    @functools.cached_property
    def tokens(self) -> dict[int, str]:
        """Id -> token."""
        return {i: token for token, i in self.ids.items()}


def read(path: str) -> TokenizerJson:
    """Reads a `tokenizer.json`. Raises ValueError as `parse` does."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        raise ValueError(
            f"{path}: {error.strerror}; expected a tokenizer.json of Hugging Face"
        ) from error
    return parse(text, path)


def parse(text: str | bytes, where: str) -> TokenizerJson:
    """Reads the text of a `tokenizer.json`.

    `truncation` and `padding` are left aside: they say how to call a tokenizer.

    Raises:
      ValueError: it is malformed, or asks for something that is not supported; the message begins
        with `where` and names it.
    """
    try:
        fields = json.loads(text, parse_float=serde.to_float)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not valid JSON: {error}; get the file anew") from error
    try:
        return _parse(fields, text.encode() if isinstance(text, str) else text, where)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{where}: malformed: {error!r}; get the file anew") from error


def _parse(fields, text, where):
    if not isinstance(fields, dict) or not isinstance(fields.get("model"), dict):
        raise ValueError(f'{where}: no "model" object; expected a tokenizer.json of Hugging Face')
    model = _parse_model(fields["model"], where)
    pre_tokenizer, decoder = fields.get("pre_tokenizer"), fields.get("decoder")
    for name, node in (("pre_tokenizer", pre_tokenizer), ("decoder", decoder)):
        if node is not None and not isinstance(node, dict):
            raise ValueError(f"{where}: malformed {name} {node}: expected an object or null")
    added = parse_added_tokens(fields.get("added_tokens") or [], model, where)
    ids = {*model.vocab.values(), *added.values()}
    return TokenizerJson(
        text,
        model,
        added,
        normalizers.from_json(fields.get("normalizer"), where),
        pre_tokenizer,
        decoder,
        post_processors.from_json(fields.get("post_processor"), ids, where),
    )


def _parse_model(node, where):
    kind = node.get("type") or ("BPE" if "merges" in node else None)
    parsers = {"BPE": _parse_bpe, "WordPiece": _parse_word_piece, "Unigram": _parse_unigram}
    if kind not in parsers:
        raise ValueError(f"{where}: model {kind}: unsupported; supported are {', '.join(parsers)}")
    return parsers[kind](node, where)


def _parse_bpe(node, where):
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if node.get(name):
            raise ValueError(f"{where}: model with {name}={node[name]!r}: unsupported")
    vocab, merges = node.get("vocab"), node.get("merges")
    if not isinstance(vocab, dict) or not vocab or not isinstance(merges, list):
        raise ValueError(f"{where}: the model needs a vocab object with tokens and a merges array")
    _check_ids(vocab, where)
    merges = _pairs(merges)
    for rank, merge in enumerate(merges):
        if len(merge) != 2 or not {*merge, "".join(merge)} <= vocab.keys():
            raise ValueError(
                f"{where}: merge {rank}, {merge}: expected two tokens of the vocabulary that "
                "join to a third"
            )
    unk_token = node.get("unk_token")
    if unk_token is not None and unk_token not in vocab:
        if not vocab.keys() >= set(ALPHABET):
            raise ValueError(f"{where}: unk_token {unk_token!r} is not in the vocabulary")
        unk_token = None  # of no use
    flags = (bool(node.get(name)) for name in ("fuse_unk", "byte_fallback"))
    return BPEModel(vocab, merges, bool(node.get("ignore_merges")), unk_token, *flags)


def _parse_word_piece(node, where):
    vocab, unk_token = node.get("vocab"), node.get("unk_token")
    if not isinstance(vocab, dict) or unk_token not in vocab:
        raise ValueError(
            f"{where}: the model needs a vocab object with tokens and unk_token {unk_token!r} in it"
        )
    _check_ids(vocab, where)
    prefix, max_chars = node["continuing_subword_prefix"], node["max_input_chars_per_word"]
    return WordPieceModel(vocab, unk_token, prefix, int(max_chars))


def _parse_unigram(node, where):
    pieces, unk_id = node.get("vocab"), node.get("unk_id")
    if not isinstance(pieces, list) or not pieces:
        raise ValueError(f"{where}: the model needs a vocab array of tokens and their scores")
    vocab = {token: i for i, (token, _) in enumerate(pieces)}
    if len(vocab) < len(pieces):
        twice = next(token for i, (token, _) in enumerate(pieces) if vocab[token] != i)
        raise ValueError(f"{where}: token {twice!r} is in the vocabulary twice: unsupported")
    if type(unk_id) is not int or not 0 <= unk_id < len(pieces):
        raise ValueError(
            f"{where}: unk_id {unk_id!r}: expected the id of a token, which unknown text becomes"
        )
    scores = tuple(float(score) for _, score in pieces)
    return UnigramModel(vocab, scores, unk_id, bool(node.get("byte_fallback")))


def _check_ids(vocab, where):
    ids = set(vocab.values())
    if len(ids) < len(vocab) or not all(type(i) is int and 0 <= i < _MAX_ID for i in ids):
        raise ValueError(
            f"{where}: ids of the vocabulary: expected each once, and whole numbers below {_MAX_ID}"
        )


def _pairs(merges):
    """Merges as pairs of tokens; older files write them as strings with a blank between."""
    return [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]


def parse_added_tokens(nodes, model, where) -> dict[AddedToken, int]:
    """The `added_tokens` of a file. Raises ValueError as `parse` does."""
    tokens, ids = {}, dict(model.vocab)
    for node in nodes:
        content, given = node.get("content"), node.get("id")
        if not content or any(token.content == content for token in tokens):
            raise ValueError(f"{where}: added token {content!r}: expected a string of its own")
        # `tokenizers` reads the id but gives one by this rule.
        new = max(len(model.vocab), max(tokens.values(), default=-1) + 1)
        expected = ids.setdefault(content, new)
        if given != expected:
            raise ValueError(
                f"{where}: added token {content!r} has id {given}, where Hugging Face's tokenizers "
                f"gives it {expected}; number added tokens without gaps, after the vocabulary"
            )
        flags = ("special", "lstrip", "rstrip", "normalized", "single_word")
        tokens[AddedToken(content, *(bool(node.get(flag)) for flag in flags))] = given
    return tokens


BYTE_LEVEL = {
    "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True
}  # fmt: skip
"""The decoder of byte-level BPE."""


def write(
    model: BPEModel,
    special,
    added,
    pre_tokenizer,
    normalizer=None,
    decoder=BYTE_LEVEL,
    post_processor=None,
):
    """The text of a `tokenizer.json`.

    Args:
      model: see there.
      special, added: ordered strings, found in texts; those that are not in the vocabulary get the
        ids after it.
      pre_tokenizer, normalizer, decoder, post_processor: as the file has them.
    """
    ids = dict(model.vocab)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added_tokens = [
        {"id": ids.setdefault(content, len(ids)), "content": content, **flags, "special": kind}
        for contents, kind in ((special, True), (added, False))
        for content in contents
    ]
    fields = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added_tokens, key=lambda token: token["id"]),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": model.unk_token,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": model.fuse_unk,
            "byte_fallback": model.byte_fallback,
            "ignore_merges": model.ignore_merges,
            "vocab": dict(sorted(model.vocab.items(), key=lambda item: item[1])),
            "merges": _pairs(model.merges),
        },
    }  # fmt: skip
    return json.dumps(fields, ensure_ascii=False, indent=2) + "\n"
