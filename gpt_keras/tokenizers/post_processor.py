"""The `post_processor` of a `tokenizer.json`: special tokens around a text, or around two."""

import dataclasses
from typing import NamedTuple

import tensorflow as tf


class SpecialTokens(NamedTuple):
    """Ids and token types, as many, of tokens that no text is made of."""

    ids: tuple[int, ...] = ()
    types: tuple[int, ...] = ()


_NONE = SpecialTokens()


@dataclasses.dataclass(frozen=True)
class Template:
    """Special tokens around one text, or around two and between them.

    Attributes:
      prefix, separator, suffix: before the text, between the two, after the last.
      text_types: token types of the first text and of the second.
    """

    prefix: SpecialTokens = _NONE
    separator: SpecialTokens = _NONE
    suffix: SpecialTokens = _NONE
    text_types: tuple[int, int] = (0, 1)

    @property
    def num_tokens(self) -> int:
        """How many it adds."""
        return sum(len(tokens.ids) for tokens in (self.prefix, self.separator, self.suffix))

    def ids(self, *texts: tf.RaggedTensor) -> tf.RaggedTensor:
        """(B, None) int32 of the texts, or of the first ones and the second -> with its tokens."""
        return _join(self.prefix.ids, self.separator.ids, self.suffix.ids, texts)

    def types(self, *texts: tf.RaggedTensor) -> tf.RaggedTensor:
        """(B, None) int32, the token types of what `ids` gives."""
        texts = [
            text.with_values(tf.fill(tf.shape(text.values), kind))
            for text, kind in zip(texts, self.text_types, strict=False)
        ]
        return _join(self.prefix.types, self.separator.types, self.suffix.types, texts)

    def beside(self, *texts: tf.RaggedTensor, special: int) -> tf.RaggedTensor:
        """Numbers (B, None) of the tokens of the texts, and `special` for each token it adds."""
        parts = (self.prefix, self.separator, self.suffix)
        return _join(*((special,) * len(part.ids) for part in parts), texts)


@dataclasses.dataclass(frozen=True)
class PostProcessor:
    """What a tokenizer adds.

    Attributes:
      single: to a text.
      pair: to two texts that a model takes together.
      trims: whether the offsets of tokens leave out the blanks that these begin and end with.
      has_prefix: whether a blank that begins a text may have been put there, for `trims`.
    """

    single: Template = Template()
    pair: Template = Template()
    trims: bool = False
    has_prefix: bool = False


def from_json(node: dict | None, ids, where: str) -> PostProcessor:
    """The `post_processor` of a `tokenizer.json`.

    Args:
      node: as the file has it.
      ids: those of the vocabulary.
      where: begins the message of an error.

    Raises:
      ValueError: it asks for something else than tokens before, between and after texts, or for a
        token that is not in the vocabulary.
    """
    nodes = (node["processors"] if node and node["type"] == "Sequence" else [node]) if node else []
    trimming = [part for part in nodes if part["type"] in ("ByteLevel", "RobertaProcessing")]
    trimming = [part for part in trimming if part.get("trim_offsets", True)]
    if len(trimming) > 1:
        raise ValueError(f"{where}: post_processor trims offsets twice: unsupported; once will do")
    trims = {
        "trims": bool(trimming),
        "has_prefix": bool(trimming) and bool(trimming[0].get("add_prefix_space", True)),
    }
    nodes = [part for part in nodes if part["type"] != "ByteLevel"]  # moves offsets alone
    if len(nodes) > 1 or (nodes and nodes[0]["type"] not in _PARSERS):
        raise ValueError(
            f"{where}: post_processor {', '.join(part['type'] for part in nodes)}: unsupported; "
            f"supported are ByteLevel and one of {', '.join(_PARSERS)}"
        )
    if not nodes:
        return PostProcessor(**trims)
    try:
        found = dataclasses.replace(_PARSERS[nodes[0]["type"]](nodes[0]), **trims)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    for template in (found.single, found.pair):
        for tokens in (template.prefix, template.separator, template.suffix):
            for unknown in set(tokens.ids).difference(ids):
                raise ValueError(
                    f"{where}: post_processor adds the token id {unknown}, which is not in the "
                    "vocabulary"
                )
    return found


def to_json(begin: tuple[str, int] | None = None, end: tuple[str, int] | None = None):
    """The node of a tokenizer that puts a token before each text, and one after it.

    Args:
      begin, end: token and id, or None to add none there.
    """
    if begin is None and end is None:
        return None

    def part(name, kind):
        around = [{"Sequence": {"id": name, "type_id": kind}}]
        if begin:
            around.insert(0, {"SpecialToken": {"id": begin[0], "type_id": kind}})
        if end:
            around.append({"SpecialToken": {"id": end[0], "type_id": kind}})
        return around

    return {
        "type": "TemplateProcessing",
        "single": part("A", 0),
        "pair": part("A", 0) + part("B", 1),
        "special_tokens": {
            token[0]: {"id": token[0], "ids": [token[1]], "tokens": [token[0]]}
            for token in (begin, end)
            if token
        },
    }


def _template_processing(node):
    special = {name: tuple(token["ids"]) for name, token in node["special_tokens"].items()}
    return PostProcessor(
        _template(node["single"], ["A"], special), _template(node["pair"], ["A", "B"], special)
    )


def _template(parts, names, special):
    """The template of a list of parts, in which these texts must stand in this order."""
    around, types = [_NONE], []
    for part in parts:
        if "Sequence" in part:
            types.append(part["Sequence"]["type_id"])
            around.append(_NONE)
        else:
            name, kind = part["SpecialToken"]["id"], part["SpecialToken"]["type_id"]
            ids, kinds = around[-1]
            around[-1] = SpecialTokens(ids + special[name], kinds + (kind,) * len(special[name]))
    found = [part["Sequence"]["id"] for part in parts if "Sequence" in part]
    if found != names:
        raise ValueError(
            f"post_processor with the texts {', '.join(found)} in this order: unsupported; "
            f"expected {', '.join(names)}"
        )
    between = around[1] if len(names) == 2 else _NONE
    return Template(around[0], between, around[-1], (types[0], types[-1]))


def _bert(node):
    begin, end = node["cls"][1], node["sep"][1]
    return PostProcessor(
        Template(_typed(0, begin), suffix=_typed(0, end), text_types=(0, 0)),
        Template(_typed(0, begin), _typed(0, end), _typed(1, end)),
    )


def _roberta(node):
    begin, end = node["cls"][1], node["sep"][1]
    return PostProcessor(
        Template(_typed(0, begin), suffix=_typed(0, end), text_types=(0, 0)),
        Template(_typed(0, begin), _typed(0, end, end), _typed(0, end), (0, 0)),
    )


_PARSERS = {
    "TemplateProcessing": _template_processing,
    "BertProcessing": _bert,
    "RobertaProcessing": _roberta,
}


def _typed(kind, *ids):
    return SpecialTokens(ids, (kind,) * len(ids))


def _join(prefix, separator, suffix, texts):
    """Texts with the same tokens in each row around and between them."""
    parts = [prefix, texts[0], *(part for text in texts[1:] for part in (separator, text)), suffix]
    rows = texts[0].nrows()
    parts = [
        tf.tile([part], [rows, 1]) if isinstance(part, tuple) else part
        for part in parts
        if not isinstance(part, tuple) or part
    ]
    return tf.concat(parts, axis=1) if len(parts) > 1 else parts[0]
