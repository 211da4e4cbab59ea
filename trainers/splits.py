"""Splits: data held out by a hash of the text, so that no text is on both sides.

Which side a text falls on depends on the text and the salt alone: not on the order of the data or
on what else is in it.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

Key = Callable[[str], str]


def normalize(text: str) -> str:
    """Lower case, with single spaces: what makes two texts the same one."""
    return " ".join(text.casefold().split())


def hash_fraction(text: str, salt: str = "") -> float:
    """A number in [0, 1), uniform over texts, that depends on text and salt alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=salt.encode()).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def is_held_out(text: str, fraction: float, salt: str = "eval", key: Key = normalize) -> bool:
    """Which side a text falls on; by default that of `--eval_fraction`, in every program.

    Args:
      text: of a sample, or what stands for it.
      fraction: share of the texts to hold out.
      salt: another salt is another split; up to 64 bytes.
      key: texts of the same key fall on the same side.
    """
    return hash_fraction(key(text), salt) < fraction


def split_by_hash(
    records: Sequence[dict], fraction: float, salt: str = "eval", key: Key = normalize
) -> tuple[list[dict], list[dict]]:
    """Parts records in two, see `is_held_out`.

    Args:
      records: with `text`.
      fraction: in (0, 1).
      salt, key: as there.

    Returns:
      The records kept and those held out, each in their order.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction}: give a share between 0 and 1")
    sides: tuple[list[dict], list[dict]] = ([], [])
    for record in records:
        sides[is_held_out(record["text"], fraction, salt, key)].append(record)
    return sides


def order_by_hash(records: Sequence[dict], salt: str = "", key: Key = normalize) -> list[dict]:
    """Records in an order that depends on their texts alone; its first n are a fair sample."""
    return sorted(records, key=lambda record: hash_fraction(key(record["text"]), salt))


def deduplicate(records: Sequence[dict], key: Key = normalize) -> tuple[list[dict], int, int]:
    """Keeps the first record of each text, and none of a text that carries several labels.

    Args:
      records: with `text` and, where there are any, `label`.
      key: texts of the same key are the same text.

    Returns:
      The records kept; how many further copies, and how many of contradictory labels were dropped.
    """
    groups: dict[str, list[dict]] = {}
    for record in records:
        groups.setdefault(key(record["text"]), []).append(record)
    kept, conflicting = [], 0
    for group in groups.values():
        if len({record.get("label") for record in group}) > 1:
            conflicting += len(group)
        else:
            kept.append(group[0])
    return kept, len(records) - len(kept) - conflicting, conflicting


def count_overlap(records: Sequence[dict], others: Sequence[dict], key: Key = normalize) -> int:
    """How many of the records have their text among the others."""
    known = {key(record["text"]) for record in others}
    return sum(key(record["text"]) in known for record in records)


def label_table(parts: dict[str, Sequence[dict]]) -> str:
    """A table of how many records of each label each part has."""
    counts = {name: Counter(str(r["label"]) for r in records) for name, records in parts.items()}
    labels = sorted(set().union(*counts.values()))
    rows = [["", *labels, "all"]]
    for name, count in counts.items():
        cells = [f"{count[label]:,}" for label in labels]
        rows.append([name, *cells, f"{count.total():,}"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    )
