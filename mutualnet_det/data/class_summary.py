"""What a data set for classification holds, class by class, and what lies beside its images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .faults import BadRecords
from .summary import MAX_ROWS, table


@dataclass(frozen=True)
class ImagesSummary:
    """
    A data set for classification, as training and scoring take it.

    Attributes:
        name: of the data set.
        classes: the images that can be used of each class, by its name, and those that cannot.
        ignored: what lies beside its images, and is left out: a line each.
    """

    name: str
    classes: tuple[tuple[str, int, int], ...]
    ignored: tuple[str, ...]

    # As DatasetSummary has them: what is counted, and what is wrong with annotations.
    unit = "images"
    bad = BadRecords()
    notes = ()

    @property
    def counts(self) -> list[tuple[str, int]]:
        """Each class and its images."""
        return [(name, count) for name, count, _ in self.classes]

    def advice(self) -> list[str]:
        """What may be meant otherwise."""
        return list(self.ignored)

    def __str__(self) -> str:
        return "\n".join([self.text(), *self.advice()])

    def text(self, *, sizes: bool = False) -> str:
        """The table of classes; images have no ``sizes`` as objects do."""
        left_out = sum(count for _, _, count in self.classes)
        total = sum(count for _, count, _ in self.classes)
        shown: list[Sequence[object]] = [("class", "images", "left out"), *self.classes[:MAX_ROWS]]
        if rest := self.classes[MAX_ROWS:]:
            sums = (sum(count for _, count, _ in rest), sum(count for _, _, count in rest))
            shown.append((f"{len(rest)} more", *sums))
        head = f"{self.name}: {total} images" + (f", {left_out} left out" if left_out else "")
        return "\n".join([head, *table([*shown, ("all", total, left_out)])])


def summarise_images(
    name: str,
    records: Sequence[dict],
    classes: Sequence[str],
    ignored: Sequence[str],
    unusable: Collection[int] = (),
) -> ImagesSummary:
    """
    Count the images of each class.

    Args:
        name: of the data set.
        records: "label" each.
        classes: the names, by label.
        ignored: what lies beside them, and is left out.
        unusable: the places in ``records`` of those whose files cannot be used.
    """
    bad = Counter(records[place]["label"] for place in unusable)
    all_ = Counter(record["label"] for record in records)
    counts = ((each, all_[i] - bad[i], bad[i]) for i, each in enumerate(classes))
    return ImagesSummary(name, tuple(counts), tuple(ignored))
