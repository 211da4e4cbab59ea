"""What a `tokenizer.json` does to texts before it cuts them into words, on flat code points.

Each step says of every code point which one of those before it comes from, as the reference has it.
"""

import dataclasses
import json

import tensorflow as tf

from gpt_keras.tokenizers import precompiled, ragged, tables, unicode_data, utf8
from gpt_keras.tokenizers.char_map import CharMap, unchanged

FORMS = ("NFC", "NFD", "NFKC", "NFKD")
PATTERNS = (" {2,}",)
"""Regular expressions of `Replace`: those that mean the same to RE2."""
KINDS = (
    f"{', '.join(FORMS)}, Lowercase, StripAccents, BertNormalizer, Precompiled, Prepend of a "
    "character, Replace, Strip and sequences of them"
)
_PAIR = 2**21  # above all code points


class Normalizer(tf.Module):
    """Steps, one after the other."""

    def __init__(self, steps=()):
        """
        Args:
          steps: functions of (C,) int32 code points and (B + 1,) int64 row splits that return the
            same, (D,) and (B + 1,), and (D,) int64: the index in the old ones of what each new one
            was made of.
        """
        super().__init__(name="normalizer")
        self.steps = tuple(steps)

    def __call__(self, code_points, splits):
        """A step too."""
        origin = tf.range(tf.size(code_points, tf.int64))
        for step in self.steps:
            code_points, splits, places = step(code_points, splits)
            origin = tf.gather(origin, places)
        # Which a step that goes through several functions may have forgotten.
        return *(tf.ensure_shape(x, [None]) for x in (code_points, splits)), origin

    def of_texts(self, texts):
        """(B,) string of (B,) valid UTF-8 string."""
        return utf8.from_splits(*self(*utf8.to_code_points(texts))[:2])


class Form(tf.Module):
    """A normalization form of Unicode, https://www.unicode.org/reports/tr15/."""

    def __init__(self, name):
        """
        Args:
          name: one of `FORMS`.
        """
        super().__init__(name=name.lower())
        mapping = unicode_data.decompositions(compatibility="K" in name)
        self._decompose = CharMap(mapping)
        classes = unicode_data.combining_classes()
        self._classes = tables.dense(classes)
        # What may change, alone or beside its neighbours.
        doubtful = mapping.keys() | classes.keys()
        self._pairs = None
        if name.endswith("C"):
            pairs = unicode_data.compositions()
            canonical = unicode_data.decompositions()
            doubtful -= {c for c in pairs.values() if mapping[c] == canonical[c]}
            doubtful |= {second for _, second in pairs}
            keys = [first * _PAIR + second for first, second in pairs]
            self._pairs = tables.lookup_table(keys, list(pairs.values()), -1, tf.int64)
        self._doubtful = tables.dense(dict.fromkeys(doubtful, 1)) > 0

    def __call__(self, code_points, splits):
        return tf.cond(
            tf.reduce_any(tables.gather_dense(self._doubtful, code_points)),
            lambda: self._normalize(code_points, splits),
            lambda: unchanged(code_points, splits),
        )

    def _normalize(self, code_points, splits):
        code_points, splits, origin = self._decompose(code_points, splits)
        rows = ragged.row_ids(splits)
        classes = tables.gather_dense(self._classes, code_points)
        order = _canonical_order(classes, rows)
        code_points, classes = tf.gather(code_points, order), tf.gather(classes, order)
        # How many old code points each one stands for: 0 where one has become several. The
        # reference goes by these numbers alone, in the new order, so we do.
        used = tf.gather(tf.cast(ragged.previous(origin, -1) != origin, tf.int64), order)
        if self._pairs is not None:
            code_points, rows, used = self._compose(code_points, classes, rows, used)
            splits = ragged.row_splits(rows, tf.size(splits, tf.int64) - 1)
        origin = tf.cumsum(used) - tf.maximum(used, 1)
        return code_points, splits, origin

    def _compose(self, code_points, classes, rows, used):
        """Joins starters with what follows them, as long as there is something to join."""
        vector = tf.TensorShape([None])
        code_points, _, rows, used, _ = tf.while_loop(
            lambda *state: state[-1],
            self._round,
            (code_points, classes, rows, used, True),
            shape_invariants=(*[vector] * 4, tf.TensorShape([])),
            parallel_iterations=1,
        )
        return code_points, rows, used

    def _round(self, code_points, classes, rows, used, _):
        """Each starter takes the first code point that it composes with, unless one takes it.

        Marks that a starter passed over in a round before are looked at again, in vain: what it
        has become would compose with them only if its own decomposition were out of order.
        """
        size = tf.size(code_points, tf.int64)
        place = tf.range(size)
        is_first = ragged.previous(rows, -1) != rows
        is_head = is_first | (classes == 0)
        heads = tf.squeeze(tf.where(is_head), 1)
        group = tf.cumsum(tf.cast(is_head, tf.int64)) - 1
        base = tf.gather(heads, tf.maximum(tf.where(is_head, group - 1, group), 0))
        # A mark of no lower class, or anything before a starter, keeps the two apart.
        is_apart = (place - 1 != base) & (is_head | (ragged.previous(classes, 0) >= classes))
        keys = tf.cast(tf.gather(code_points, base), tf.int64) * _PAIR
        composite = self._pairs.lookup(keys + tf.cast(code_points, tf.int64))
        composes = (composite >= 0) & ~is_apart & ~is_first
        chosen = composes & ~tf.gather(composes, base)
        first_mark = tf.math.segment_min(tf.where(chosen & ~is_head, place, size), group)
        chosen &= is_head | (place == tf.gather(first_mark, group))
        taken = tf.squeeze(tf.where(chosen), 1)
        takers = tf.gather(base, taken)[:, tf.newaxis]
        code_points = tf.tensor_scatter_nd_update(code_points, takers, tf.gather(composite, taken))
        used = tf.tensor_scatter_nd_add(used, takers, tf.gather(used, taken))
        kept = tf.squeeze(tf.where(~chosen), 1)
        state = (tf.gather(x, kept) for x in (code_points, classes, rows, used))
        return *state, tf.size(taken) > 0


def _canonical_order(classes, rows):
    """(C,) int64 places: the marks of a starter in the order of their classes."""
    size = tf.size(classes, out_type=tf.int64)
    is_head = (ragged.previous(rows, -1) != rows) | (classes == 0)
    group = tf.cumsum(tf.cast(is_head, tf.int64))
    keys = (group * 256 + tf.cast(classes, tf.int64)) * size + tf.range(size)
    is_sorted = tf.reduce_all(keys[1:] > keys[:-1])
    return tf.cond(is_sorted, lambda: tf.range(size), lambda: tf.cast(tf.argsort(keys), tf.int64))


@dataclasses.dataclass(frozen=True)
class Prepend:
    """Puts a character before each text that is not empty."""

    char: str

    def __call__(self, code_points, splits):
        at = ragged.mark(splits[:-1], tf.size(code_points))
        return insert(code_points, splits, at, self.char)


def insert(code_points, splits, at, char):
    """Puts a character before the code points of the flat rows that `at`, (C,) bool, marks.

    Returns:
      as a step of a `Normalizer`; what is put before a code point comes from it.
    """
    at = tf.squeeze(tf.where(at), 1)  # (k,), old places
    count = tf.size(at, tf.int64)
    size = tf.size(code_points, tf.int64) + count
    is_put = ragged.mark(at + tf.range(count), size)  # (C + k,)
    origin = tf.range(size) - tf.cumsum(tf.cast(is_put, tf.int64), exclusive=True)
    moved = tf.where(is_put, ord(char), tf.gather(code_points, origin))
    # A row's first code point moves by what is put before it: as much as shifts the one before.
    return moved, splits + tf.searchsorted(at, splits, out_type=tf.int64), origin


@dataclasses.dataclass(frozen=True)
class Replace:
    """Puts other text for each match of a pattern of RE2."""

    pattern: str
    content: str

    def __call__(self, code_points, splits):
        texts = utf8.from_splits(code_points, splits)
        rewrite = self.content.replace("\\", r"\\")
        new = tf.strings.regex_replace(texts, self.pattern, rewrite)
        return *utf8.to_code_points(new), self._origin(texts)

    def _origin(self, texts):
        """(D,) int64: what is put for a match comes from the last code point of it."""
        marked = tf.strings.regex_replace(texts, self.pattern, utf8.MARK + rb"\0" + utf8.MARK)
        parts = tf.strings.split(marked, utf8.MARK)  # text, match, text, ..., text
        sizes = tf.cast(tf.strings.length(parts.values, unit="UTF8_CHAR"), tf.int64)
        limits = tf.cumsum(sizes)
        place = tf.ragged.range(parts.row_lengths()).values
        is_match = place % 2 == 1
        sizes = tf.where(is_match, tf.constant(len(self.content), tf.int64), sizes)  # new ones
        splits = tf.concat([[0], tf.cumsum(sizes)], 0)
        owners = ragged.row_ids(splits)
        after = tf.gather(splits[1:], owners) - tf.range(splits[-1])  # 1 for the last of a part
        return tf.gather(limits, owners) - tf.where(
            tf.gather(is_match, owners), tf.ones_like(after), after
        )


def from_json(node, where: str) -> Normalizer:
    """The `normalizer` of a `tokenizer.json`.

    Raises:
      ValueError: it asks for something else; the message begins with `where`.
    """
    return Normalizer(_steps(node, where))


def _steps(node, where):
    if node is None:
        return
    kind = node["type"]
    if kind == "Sequence":
        for part in node["normalizers"]:
            yield from _steps(part, where)
    elif kind in FORMS:
        yield Form(kind)
    elif kind == "Lowercase":
        yield CharMap(unicode_data.lowercase())
    elif kind == "StripAccents":
        yield CharMap(dict.fromkeys(unicode_data.accents(), ()))
    elif kind == "Precompiled":
        yield precompiled.from_json(node, where)
    elif kind == "BertNormalizer":
        yield from _bert(node)
    elif kind == "Prepend" and len(node["prepend"]) == 1:
        yield Prepend(node["prepend"])
    elif kind == "Replace":
        yield _replace(node, where)
    elif kind == "Strip":
        ends = [("strip_left", rf"^{utf8.SPACE}+"), ("strip_right", rf"{utf8.SPACE}+$")]
        yield from (Replace(pattern, "") for name, pattern in ends if node[name])
    else:
        raise ValueError(f"{where}: normalizer {_brief(node)}: unsupported; supported are {KINDS}")


def _bert(node):
    if node["clean_text"]:
        yield CharMap(unicode_data.bert_cleaned())
    if node["handle_chinese_chars"]:
        blank = ord(" ")
        yield CharMap({c: (blank, c, blank) for c in unicode_data.chinese()})
    strips = node["strip_accents"]
    if node["lowercase"] if strips is None else strips:
        yield Form("NFD")
        yield CharMap(dict.fromkeys(unicode_data.bert_accents(), ()))
    if node["lowercase"]:
        yield CharMap(unicode_data.lowercase())


def _replace(node, where):
    content, pattern = node["content"], node["pattern"]
    literal = pattern.get("String")
    if literal is not None and len(literal) == 1:
        return CharMap({ord(literal): tuple(map(ord, content))})
    if literal:
        return Replace(utf8.escape(literal), content)
    if pattern.get("Regex") in PATTERNS:
        return Replace(pattern["Regex"], content)
    raise ValueError(
        f"{where}: normalizer Replace of {pattern}: unsupported; supported are strings and the "
        f"expressions {', '.join(map(repr, PATTERNS))}"
    )


def _brief(node):
    text = json.dumps(node, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "..."
