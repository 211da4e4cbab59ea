"""Cuts texts into words at ▁, which stands for blanks, at white space and at punctuation."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from gpt_keras.tokenizers import ragged, tables, unicode_data
from gpt_keras.tokenizers.words import Words, put_before

MARK = "▁"
_SPACE, _MARK = 1, 2
SCHEMES = ("always", "first", "never")


@dataclasses.dataclass(frozen=True)
class Metaspace:
    """The pre-tokenizer of that name.

    Attributes:
      scheme: whether ▁ is put before every text that does not begin with it, before what stands at
        the beginning of a row, or never.
      splits: whether every ▁ starts a word.
    """

    scheme: str
    splits: bool

    def __call__(self, code_points, splits, first, is_first_part):
        code_points = tf.where(code_points == ord(" "), ord(MARK), code_points)
        if self.scheme != "never":
            missing = first & (code_points != ord(MARK))
            if self.scheme == "first":
                is_first_part &= splits[1:] > splits[:-1]  # an empty one has no place of its own
                begins = tf.boolean_mask(splits[:-1], is_first_part)
                missing &= ragged.mark(begins, tf.size(code_points))
            code_points, splits, first, origin = put_before(
                code_points, splits, first, missing, MARK
            )
        else:
            origin = tf.range(tf.size(code_points, tf.int64))
        first = first | (code_points == ord(MARK)) if self.splits else first
        return code_points, splits, first, origin


@dataclasses.dataclass(frozen=True)
class Split:
    """The pre-tokenizer of that name, at a character.

    Attributes:
      char: one character.
      before, after: whether a word starts with it, and after it.
    """

    char: str
    before: bool
    after: bool

    def __call__(self, code_points, splits, first, is_first_part):
        found = code_points == ord(self.char)
        if self.before:
            first |= found
        if self.after:
            first |= ragged.previous(found, False)
        return code_points, splits, first, tf.range(tf.size(code_points, tf.int64))


class WhiteSpace:
    """Drops white space, which parts words, and makes each punctuation mark a word."""

    def __init__(self, punctuation):
        """
        Args:
          punctuation: whether to; else white space alone.
        """
        classes = unicode_data.bert_classes()
        kept = {c: kind for c, kind in classes.items() if punctuation or kind == _SPACE}
        self._classes = tables.dense(kept)

    def __call__(self, code_points, splits, first, is_first_part):
        classes = tables.gather_dense(self._classes, code_points)
        first |= (classes == _MARK) | (ragged.previous(classes, 0) > 0)
        kept = classes != _SPACE
        splits = tf.gather(tf.concat([[0], tf.cumsum(tf.cast(kept, tf.int64))], 0), splits)
        origin = tf.squeeze(tf.where(kept), 1)
        return tf.gather(code_points, origin), splits, tf.gather(first, origin), origin


@dataclasses.dataclass(frozen=True)
class CharSplitter:
    """Steps, and cuts between characters that no token holds side by side.

    Attributes:
      steps: of the classes above.
      is_joined: see `char_encoder.CharEncoder`; None makes no cuts.
    """

    steps: tuple
    is_joined: Callable | None = None

    def __call__(self, code_points, splits, is_first_part):
        """Splits texts, inside a graph.

        Args:
          code_points: (C,) int32, of all texts.
          splits: (P + 1,) int64, row splits of the texts.
          is_first_part: (P,) bool, those at the beginning of a row.

        Returns:
          see `Words`.
        """
        first = ragged.mark(splits[:-1], tf.size(code_points))
        origin = tf.range(tf.size(code_points, tf.int64))
        for step in self.steps:
            code_points, splits, first, places = step(code_points, splits, first, is_first_part)
            origin = tf.gather(origin, places)
        if self.is_joined is not None:
            first |= ~self.is_joined(code_points)
        return Words.cut(code_points, splits, first, origin)


def from_json(node, where) -> tuple:
    """Steps of the `pre_tokenizer` of a `tokenizer.json`.

    Raises:
      ValueError: it asks for something else; the message begins with `where`.
    """
    if node is None:
        return ()
    kind = node["type"]
    if kind == "Sequence":
        steps = tuple(step for part in node["pretokenizers"] for step in from_json(part, where))
        if any(isinstance(step, Metaspace) and step.scheme == "first" for step in steps[1:]):
            # What is first there is a word at the very beginning, before white space was dropped.
            raise ValueError(
                f"{where}: Metaspace with prepend_scheme='first' after another pre-tokenizer: "
                "unsupported; supported are always and never"
            )
        return steps
    if kind in ("BertPreTokenizer", "WhitespaceSplit"):
        return (WhiteSpace(punctuation=kind == "BertPreTokenizer"),)
    if kind == "Metaspace" and node["replacement"] == MARK:
        return (Metaspace(scheme(node, where), bool(node.get("split", True))),)
    if kind == "Split" and len(node["pattern"].get("String", "")) == 1 and not node["invert"]:
        sides = {
            "MergedWithNext": (True, False),
            "MergedWithPrevious": (False, True),
            "Isolated": (True, True),
        }
        if node["behavior"] in sides:
            before, after = sides[node["behavior"]]
            return (Split(node["pattern"]["String"], before, after),)
    raise ValueError(
        f"{where}: unsupported pre-tokenizer {node}; supported are Metaspace with {MARK}, "
        "BertPreTokenizer, WhitespaceSplit and Split at one character that is kept"
    )


def scheme(node, where) -> str:
    """Which of `SCHEMES` a Metaspace has; older files have a flag instead."""
    found = node.get("prepend_scheme")
    if found is None:
        found = "always" if node.get("add_prefix_space", True) else "never"
    if found not in SCHEMES:
        raise ValueError(
            f"{where}: Metaspace with prepend_scheme={found!r}: expected one of "
            f"{', '.join(SCHEMES)}"
        )
    return found
