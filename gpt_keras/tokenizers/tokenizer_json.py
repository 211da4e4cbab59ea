"""`tokenizer.json`, the format of Hugging Face `tokenizers`, as far as byte-level BPE goes."""

import dataclasses
import json

from gpt_keras.tokenizers import pre_tokenizer
from gpt_keras.tokenizers.byte_alphabet import ALPHABET

_MAX_ID = 2**24


@dataclasses.dataclass(frozen=True)
class BPEModel:
    """The model of a `tokenizer.json`.

    Attributes:
      vocab: token -> id; tokens are written in the byte alphabet.
      merges: pairs of tokens, best first.
      ignore_merges: a word that is in the vocabulary is that token, whatever the merges say.
      unk_token: what bytes missing from the vocabulary become; None drops them.
      fuse_unk: a run of such bytes becomes one unknown token.
    """

    vocab: dict[str, int]
    merges: list[tuple[str, str]]
    ignore_merges: bool = False
    unk_token: str | None = None
    fuse_unk: bool = False

    @property
    def unk_id(self) -> int | None:
        return None if self.unk_token is None else self.vocab[self.unk_token]


@dataclasses.dataclass(frozen=True)
class AddedToken:
    """A token that is found in the text before anything else happens to it.

    Attributes:
      content: the string.
      special: dropped by `skip_special_tokens`; may be kept from being found in a text.
      lstrip, rstrip: takes the white space before or after it with it.
      normalized: looked for only after those that are not.
    """

    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


@dataclasses.dataclass(frozen=True)
class TokenizerJson:
    """All of a `tokenizer.json` that decides ids."""

    model: BPEModel
    added_tokens: dict[AddedToken, int]
    pre_tokenizer: pre_tokenizer.PreTokenizer

    def ids(self) -> dict[str, int]:
        """Token -> id of all tokens."""
        return self.model.vocab | {token.content: i for token, i in self.added_tokens.items()}


def parse(text: str | bytes, where: str) -> TokenizerJson:
    """Reads the text of a `tokenizer.json`.

    `truncation`, `padding` and `post_processor` are left aside: they say how to call a tokenizer,
    or add tokens around a text, which `tokenize` never does.

    Raises:
      ValueError: it is malformed, or asks for something that is not supported; the message begins
        with `where` and names it.
    """
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON: {error}; get the file anew") from error
    try:
        return _parse(fields, where)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{where}: malformed: {error!r}; get the file anew") from error


def _parse(fields, where):
    if not isinstance(fields, dict) or not isinstance(fields.get("model"), dict):
        raise ValueError(f'{where}: no "model" object; expected a tokenizer.json of Hugging Face')
    if fields.get("normalizer") is not None:
        kind = fields["normalizer"].get("type")
        raise ValueError(f"{where}: normalizer {kind}: unsupported; supported is none")
    decoder = (fields.get("decoder") or {}).get("type")
    if decoder != "ByteLevel":
        raise ValueError(f"{where}: decoder {decoder}: unsupported; supported is ByteLevel")
    model = _parse_model(fields["model"], where)
    return TokenizerJson(
        model,
        _parse_added_tokens(fields.get("added_tokens") or [], model, where),
        pre_tokenizer.from_json(fields.get("pre_tokenizer"), where),
    )


def _parse_model(node, where):
    if node.get("type", "BPE") != "BPE":
        raise ValueError(f"{where}: model {node['type']}: unsupported; supported is BPE")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if node.get(name):
            raise ValueError(f"{where}: model with {name}={node[name]!r}: unsupported")
    vocab, merges = node.get("vocab"), node.get("merges")
    if not isinstance(vocab, dict) or not vocab or not isinstance(merges, list):
        raise ValueError(f"{where}: the model needs a vocab object with tokens and a merges array")
    ids = set(vocab.values())
    if len(ids) < len(vocab) or not all(type(i) is int and 0 <= i < _MAX_ID for i in ids):
        raise ValueError(
            f"{where}: ids of the vocabulary: expected each once, and whole numbers below {_MAX_ID}"
        )
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
    return BPEModel(
        vocab, merges, bool(node.get("ignore_merges")), unk_token, bool(node.get("fuse_unk"))
    )


def _pairs(merges):
    """Merges as pairs of tokens; older files write them as strings with a blank between."""
    return [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]


def _parse_added_tokens(nodes, model, where):
    tokens, ids = {}, dict(model.vocab)
    for node in nodes:
        content, given = node.get("content"), node.get("id")
        if not content or any(token.content == content for token in tokens):
            raise ValueError(f"{where}: added token {content!r}: expected a string of its own")
        if node.get("single_word"):
            raise ValueError(f"{where}: added token {content!r} with single_word: unsupported")
        # `tokenizers` reads the id but gives one by this rule.
        new = max(len(model.vocab), max(tokens.values(), default=-1) + 1)
        expected = ids.setdefault(content, new)
        if given != expected:
            raise ValueError(
                f"{where}: added token {content!r} has id {given}, where Hugging Face's tokenizers "
                f"gives it {expected}; number added tokens without gaps, after the vocabulary"
            )
        flags = ("special", "lstrip", "rstrip", "normalized")
        tokens[AddedToken(content, *(bool(node.get(flag)) for flag in flags))] = given
    return tokens


def write(model: BPEModel, special, added, splitter: pre_tokenizer.PreTokenizer) -> str:
    """The text of a `tokenizer.json`; `special` and `added` are ordered strings, found in texts.

    Those that are not in the vocabulary get the ids after it.
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
        "normalizer": None,
        "pre_tokenizer": splitter.to_json(),
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": model.unk_token,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": model.fuse_unk,
            "byte_fallback": False,
            "ignore_merges": model.ignore_merges,
            "vocab": dict(sorted(model.vocab.items(), key=lambda item: item[1])),
            "merges": _pairs(model.merges),
        },
    }  # fmt: skip
    return json.dumps(fields, ensure_ascii=False, indent=2) + "\n"
