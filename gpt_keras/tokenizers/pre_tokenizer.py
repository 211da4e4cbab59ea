"""Cuts texts into the words inside which byte-level BPE merges."""

import dataclasses

import numpy as np
import tensorflow as tf

from gpt_keras.tokenizers import char_classes, ragged, tables, word_splitting
from gpt_keras.tokenizers.words import Words, put_before


@dataclasses.dataclass(frozen=True)
class PreTokenizer:
    """What the `pre_tokenizer` of a `tokenizer.json` asks for.

    Attributes:
      pattern: regular expression of the words, a key of `word_splitting.WORD_STARTS`.
      digits: None, or "individual" to cut out every digit, or "contiguous" every run of them,
        before the pattern is applied to what lies between.
      add_prefix_space: put a blank before every text, or every part that `digits` leaves, that does
        not begin with one.
    """

    pattern: str = word_splitting.GPT2
    digits: str | None = None
    add_prefix_space: bool = False

    def __call__(self, code_points, splits, is_first_part=None):
        """Splits texts, inside a graph.

        Args:
          code_points: (C,) int32, of all texts.
          splits: (B + 1,) int64, row splits of the texts.
          is_first_part: what other splitters need to know.

        Returns:
          see `Words`.
        """
        first = ragged.mark(splits[:-1], tf.size(code_points))
        classes = _classes(code_points)
        if self.digits is not None:
            first |= self._digit_cuts(classes)
        origin = tf.range(tf.size(code_points, tf.int64))
        if self.add_prefix_space:
            missing = first & (code_points != ord(" "))
            code_points, splits, first, origin = put_before(
                code_points, splits, first, missing, " "
            )
            classes = _classes(code_points)
        classes = tf.where(classes == char_classes.DIGIT, np.uint8(char_classes.OTHER), classes)
        starts = word_splitting.WORD_STARTS[self.pattern](code_points, classes, first)
        return Words.cut(code_points, splits, starts, origin)

    def _digit_cuts(self, classes):
        """(C,) bool: where `Digits` starts a part, besides the first code point of a text."""
        digit = (classes == char_classes.NUMBER) | (classes == char_classes.DIGIT)
        before = tf.concat([digit[:1], digit[:-1]], 0)
        return digit | before if self.digits == "individual" else digit != before

    def to_json(self) -> dict:
        """The `pre_tokenizer` of a `tokenizer.json`, as a dict."""
        nodes = []
        if self.digits is not None:
            nodes.append({"type": "Digits", "individual_digits": self.digits == "individual"})
        if self.pattern != word_splitting.GPT2:
            pattern = {"Regex": self.pattern}
            nodes.append(
                {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
            )
        byte_level = {
            "type": "ByteLevel",
            "add_prefix_space": self.add_prefix_space,
            "trim_offsets": True,
            "use_regex": self.pattern == word_splitting.GPT2,
        }
        return {"type": "Sequence", "pretokenizers": [*nodes, byte_level]} if nodes else byte_level


NAMED = {
    "gpt2": PreTokenizer(),
    "digits_gpt2": PreTokenizer(digits="individual"),
    "llama3": PreTokenizer(word_splitting.LLAMA3),
    "qwen2": PreTokenizer(word_splitting.QWEN2),
    "o200k": PreTokenizer(word_splitting.O200K),
    "tekken": PreTokenizer(word_splitting.TEKKEN),
}
"""Ways of splitting; SmolLM2 and StarCoder see every digit alone and then split as GPT-2 does."""


def named(name: str, add_prefix_space: bool = False) -> PreTokenizer:
    """One of `NAMED`. Raises ValueError for any other name."""
    if name not in NAMED:
        raise ValueError(f"pre_tokenizer={name!r}: expected one of {', '.join(NAMED)}")
    splitter = NAMED[name]
    if add_prefix_space and splitter.pattern != word_splitting.GPT2:
        raise ValueError(f"pre_tokenizer={name!r} with add_prefix_space: unsupported")
    return dataclasses.replace(splitter, add_prefix_space=add_prefix_space)


def from_json(node, where: str) -> PreTokenizer:
    """The inverse of `to_json`, and of other ways to write the same.

    Raises:
      ValueError: `node` asks for something else; the message begins with `where`.
    """
    try:
        return _from_json(node, where)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{where}: malformed pre_tokenizer {node}: {error!r}") from error


def _from_json(node, where):
    nodes = node["pretokenizers"] if node and node["type"] == "Sequence" else [node or {}]
    kinds = [part.get("type") for part in nodes]
    digits, pattern = None, word_splitting.GPT2
    if kinds[:1] == ["Digits"]:
        digits = "individual" if nodes[0]["individual_digits"] else "contiguous"
        nodes, kinds = nodes[1:], kinds[1:]
    if kinds == ["Split", "ByteLevel"] and not nodes[1].get("use_regex", True):
        pattern = _split_pattern(nodes[0], where)
        if nodes[1]["add_prefix_space"]:
            raise ValueError(f"{where}: ByteLevel with add_prefix_space after Split: unsupported")
    elif kinds != ["ByteLevel"] or not nodes[0].get("use_regex", True):
        raise ValueError(
            f"{where}: unsupported pre-tokenizer {node}; supported are ByteLevel with its "
            "regex, and before it Digits"
        )
    return PreTokenizer(pattern, digits, bool(nodes[-1]["add_prefix_space"]))


def _split_pattern(node, where):
    pattern = node.get("pattern", {}).get("Regex")
    if pattern not in word_splitting.WORD_STARTS:
        raise ValueError(f"{where}: unsupported pattern of Split: {pattern or node.get('pattern')}")
    if node.get("behavior") != "Isolated" or node.get("invert"):
        raise ValueError(
            f"{where}: Split with behavior={node.get('behavior')!r}, invert={node.get('invert')}: "
            "unsupported; supported is Isolated, not inverted"
        )
    return pattern


def _classes(code_points):
    return tables.gather_dense(char_classes.table(), code_points)
