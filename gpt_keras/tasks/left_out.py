"""LeftOut: how many records nothing can be learned from, by reason."""

from collections.abc import Mapping
from typing import Any


class LeftOut(dict[str, int]):
    """Reason -> how many records, or parts of records, are left out for it.

    Attributes:
      first: reason -> file and line of the first of these records.
    """

    def __init__(self):
        super().__init__()
        self.first: dict[str, str] = {}

    def add(self, reason: str, record: Mapping[str, Any], count: int = 1) -> None:
        """Counts a record, or `count` parts of it; with 0 nothing."""
        if count:
            self[reason] = self.get(reason, 0) + count
            self.first.setdefault(reason, record["where"])

    def reasons(self) -> str:
        """All of them, in a line."""
        return "; ".join(f"{count} with {reason}" for reason, count in self.items())
