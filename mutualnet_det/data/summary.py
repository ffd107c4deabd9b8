"""What a COCO-format data set holds, class by class: objects, crowds, and what is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .coco_check import CheckedCoco, by_class
from .faults import BadRecords, examples

# Upper bounds of COCO's areas, in px^2.
SMALL, MEDIUM = 32**2, 96**2
# Of COCO's annotations one in a hundred is a crowd.
MANY_CROWDS = 0.1
MAX_ROWS = 100


@dataclass(frozen=True)
class ClassSummary:
    """
    A class of a data set.

    Attributes:
        images: with an object of it.
        objects: to learn from and to find.
        sizes: how many of them are small, medium and large, as COCO has it.
        crowds: annotations with iscrowd 1, which are neither learned nor scored.
        left_out: annotations that cannot be used.
    """

    name: str
    images: int
    objects: int
    sizes: tuple[int, int, int]
    crowds: int
    left_out: int


@dataclass(frozen=True)
class DatasetSummary:
    """
    A data set, as training and scoring take it.

    Attributes:
        name: of the data set.
        num_images: that can be used.
        num_empty: of these, how many have no object.
        classes: by the model's number of each.
        bad: what the annotation file makes unusable.
        notes: what is unlikely, though it may be meant.
        images_left_out: the files of images that cannot be used.
    """

    name: str
    num_images: int
    num_empty: int
    classes: tuple[ClassSummary, ...]
    bad: BadRecords
    notes: tuple[str, ...]
    images_left_out: tuple[str, ...]

    # What is counted.
    unit = "objects"

    @property
    def counts(self) -> list[tuple[str, int]]:
        """Each class and its objects."""
        return [(each.name, each.objects) for each in self.classes]

    @property
    def num_objects(self) -> int:
        """How many objects there are of all classes."""
        return sum(each.objects for each in self.classes)

    @property
    def num_crowds(self) -> int:
        """How many crowds there are of all classes."""
        return sum(each.crowds for each in self.classes)

    def advice(self) -> list[str]:
        """What may be meant otherwise, and what to do then: a line each."""
        lines = []
        total = self.num_objects + self.num_crowds
        if self.num_crowds > MANY_CROWDS * total:
            lines.append(
                f"{self.num_crowds} of {total} annotations are crowds (iscrowd 1), which are "
                "neither learned nor scored. Annotation tools write masks that were drawn with a "
                "brush so. If each is one object, set iscrowd 0: `mutualnet check-data "
                "--crowds-are-objects --fix OUT.json` does."
            )
        empty = [each.name for each in self.classes if not each.objects]
        if empty:
            classes = f"{len(empty)} of {len(self.classes)} classes have no object"
            lines.append(f"{classes}: {examples(empty)}.")
        return lines

    def __str__(self) -> str:
        left_out = [f"left out: {count} {kind}" for kind, count in self.bad.counts.items()]
        return "\n".join([self.text(), *left_out, *self.advice()])

    def text(self, *, sizes: bool = False) -> str:
        """The table of classes; with ``sizes``, of small, medium and large objects too."""
        head = f"{self.name}: {self.num_images} images"
        if self.num_empty:
            head += f" ({self.num_empty} without an object)"
        if self.images_left_out:
            head += f", {len(self.images_left_out)} left out"
        by_size = ("small", "medium", "large") if sizes else ()
        columns = ("class", "images", "objects", *by_size, "crowds", "left out")
        rows = [
            (c.name, c.images, c.objects, *c.sizes[: len(by_size)], c.crowds, c.left_out)
            for c in self.classes
        ]
        shown: list[Sequence[Any]] = [columns, *rows[:MAX_ROWS]]
        if len(rows) > MAX_ROWS:
            shown.append((f"{len(rows) - MAX_ROWS} more", "", *_sums(rows[MAX_ROWS:])))
        if len(rows) > 1:
            with_objects = self.num_images - self.num_empty
            shown.append(("all", with_objects, *_sums(rows)))
        return "\n".join([head, *table(shown)])


def _sums(rows: Iterable[Sequence[Any]]) -> list[int]:
    """The sums of the columns behind the first two."""
    return [sum(column) for column in list(zip(*rows, strict=True))[2:]]


def table(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]).rstrip()
        for first, *rest in texts
    ]


def summarise(name: str, checked: CheckedCoco, unusable: Collection[int] = ()) -> DatasetSummary:
    """
    Count what a checked data set holds.

    Args:
        name: of the data set.
        unusable: the ids of images whose files cannot be used.
    """
    categories = by_class(checked.data)
    index_of = {category["id"]: index for index, category in enumerate(categories)}
    annotations = checked.data["annotations"]
    left_out = Counter({index_of[id_]: count for id_, count in checked.bad.objects.items()})
    crowds: Counter[int] = Counter()
    objects: list[tuple[int, int, int]] = []  # class, image, size
    for annotation in annotations:
        index = index_of[annotation["category_id"]]
        if annotation["image_id"] in unusable:
            left_out[index] += 1
        elif annotation.get("iscrowd", 0):
            crowds[index] += 1
        else:
            objects.append((index, annotation["image_id"], _size(annotation)))
    by_size = Counter((index, size) for index, _, size in objects)
    in_images = Counter(index for index, _ in {(index, image) for index, image, _ in objects})
    classes = []
    for index, category in enumerate(categories):
        sizes = by_size[index, 0], by_size[index, 1], by_size[index, 2]
        counts = in_images[index], sum(sizes), sizes, crowds[index], left_out[index]
        classes.append(ClassSummary(category["name"], *counts))
    images = {image["id"]: image["file_name"] for image in checked.data["images"]}
    num_images = len(images) - len(unusable)
    return DatasetSummary(
        name,
        num_images,
        num_images - len({image for _, image, _ in objects}),
        tuple(classes),
        checked.bad,
        tuple(checked.notes),
        (*checked.bad.images, *(images[id_] for id_ in unusable)),
    )


def _size(annotation: dict) -> int:
    """0 for a small object, 1 for a medium, 2 for a large one."""
    area = annotation.get("area")
    if not isinstance(area, int | float) or not area > 0:
        area = annotation["bbox"][2] * annotation["bbox"][3]
    return (area > SMALL) + (area > MEDIUM)
