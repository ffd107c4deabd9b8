"""Faults of a data set: the error, and records that cannot be used, counted by kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from ..errors import UserError

NUM_EXAMPLES = 5


class DatasetError(UserError, ValueError):
    """A data set, its declaration or one of its records cannot be used."""


class BadRecords:
    """
    Records that cannot be used, by kind.

    Attributes:
        counts: how many there are of each kind.
        images: the files of those that are images.
        objects: how many annotations are left out with them, by the id of their category.
    """

    def __init__(self) -> None:
        self.images: list[str] = []
        self.counts: Counter[str] = Counter()
        self.objects: Counter[int] = Counter()
        self._examples: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, record: str) -> None:
        """Count one more of a kind; the first few are named."""
        self.counts[kind] += 1
        if len(self._examples[kind]) <= NUM_EXAMPLES:
            self._examples[kind].append(record)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        return "\n".join(
            f"  {kind}: {count} ({examples(self._examples[kind], '; ')})"
            for kind, count in self.counts.items()
        )


def examples(items: Iterable[object], separator: str = ", ") -> str:
    """The first few items as text, with an ellipsis if there are more."""
    shown = [str(item) for _, item in zip(range(NUM_EXAMPLES + 1), items, strict=False)]
    return separator.join([*shown[:NUM_EXAMPLES], *["..."] * (len(shown) > NUM_EXAMPLES)])


def shortened(value: object) -> str:
    """A value as it would be written, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
