"""
Confusions of classes: what the objects of each are found as.

An object is found by the detection of the highest score that lies on it. Those of its own class
come first, as in AP; only what is left over is another class's. A crowd excuses detections of its
class.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_util
from tabulate import tabulate

from ..data.coco_check import by_class
from ..slimmable import OperatingPoint
from .files import replacing
from .results import GridRow
from .scoring import KINDS

# Detections from this score on count, and lie on an object from this IoU of the boxes on.
MIN_SCORE = 0.5
MIN_IOU = 0.5


@dataclass(frozen=True)
class Confusion:
    """
    Numbers of objects by what they are and what they are found as.

    Attributes:
        classes: names of K classes, by rising category id.
        counts: (K + 1, K + 1), a row for each class of objects, a column for each class of
            detections; the last column holds objects that were missed, the last row detections
            where no object is.
    """

    classes: tuple[str, ...]
    counts: np.ndarray

    @classmethod
    def of(cls, ground_truth: dict[str, Any], detections: Iterable[dict[str, Any]]) -> Confusion:
        """
        Count a data set's confusions.

        Args:
            ground_truth: a COCO data set.
            detections: COCO results with boxes.
        """
        categories = by_class(ground_truth)
        numbers = {category["id"]: number for number, category in enumerate(categories)}
        objects, found = defaultdict(list), defaultdict(list)
        for annotation in ground_truth["annotations"]:
            objects[annotation["image_id"]].append(annotation)
        for detection in detections:
            if detection["score"] >= MIN_SCORE:
                found[detection["image_id"]].append(detection)
        counts = np.zeros((len(numbers) + 1, len(numbers) + 1), int)
        for image_id in {**objects, **found}:
            for pair in _found_as(objects[image_id], found[image_id], numbers):
                counts[pair] += 1
        return cls(tuple(category["name"] for category in categories), counts)

    def save(self, path: Path) -> None:
        """Write the counts as CSV, with a head to each row and column."""
        with replacing(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["true \\ found", *self.classes, "missed"])
            for name, row in zip((*self.classes, "in vain"), self.counts.tolist(), strict=True):
                writer.writerow([name, *row])

    @classmethod
    def load(cls, path: Path) -> Confusion:
        """Read what :meth:`save` wrote; ValueError for anything else."""
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        counts = np.array([row[1:] for row in rows], int)
        if counts.shape != (len(header) - 1, len(header) - 1):
            raise ValueError(f"it has {len(header) - 1} columns and {len(rows)} rows")
        return cls(tuple(header[1:-1]), counts)

    def __getitem__(self, name: str) -> dict[str, Any]:
        """What became of a class: how many objects there are, were found, and so on."""
        number = self.classes.index(name)
        *others, missed = self.counts[number].tolist()
        found, others[number] = others[number], 0
        other = f"{sum(others)}"
        if sum(others):
            most = int(np.argmax(others))
            other += f" ({others[most]} as {self.classes[most]})"
        return {
            "objects": found + sum(others) + missed,
            "found": found,
            "as another": other,
            "missed": missed,
            "in vain": int(self.counts[-1, number]),
        }


def confusion_file(folder: Path, point: OperatingPoint) -> Path:
    """The file, in the folder of a grid, of a detector's confusions at an operating point."""
    return folder / "confusion" / f"{point}.csv"


def _found_as(
    objects: Sequence[dict[str, Any]],
    detections: Sequence[dict[str, Any]],
    numbers: Mapping[Any, int],
) -> Iterator[tuple[int, int]]:
    """Yield rows and columns of the counts, of one image."""
    detections = sorted(detections, key=lambda detection: -detection["score"])
    crowd = np.array([annotation["iscrowd"] for annotation in objects], bool)
    is_, as_ = (
        np.array([numbers[each["category_id"]] for each in group], int)
        for group in (objects, detections)
    )
    boxes = ([each["bbox"] for each in group] for group in (detections, objects))
    ious = np.reshape(mask_util.iou(*boxes, crowd.tolist()), (len(detections), len(objects)))
    own = as_[:, None] == is_
    excused = (own & crowd & (ious >= MIN_IOU)).any(axis=1)
    ious[:, crowd] = 0
    finders: dict[int, int] = {}  # the number of the detection by that of the object
    for among in (own, ~own):
        left = np.where(among, ious, 0)
        left[list(finders.values())] = left[:, list(finders)] = 0
        for finder, row in enumerate(left):
            if row.max(initial=0) >= MIN_IOU:
                finders[int(row.argmax())] = finder
                left[:, row.argmax()] = 0
    nothing = len(numbers)
    for number in np.flatnonzero(~crowd):
        yield is_[number], as_[finders[number]] if number in finders else nothing
    for number in set(np.flatnonzero(~excused)) - set(finders.values()):
        yield nothing, as_[number]


def class_table(folder: Path, row: GridRow) -> str:
    """The scores of each class at a point of the grid in ``folder``, with what it is found as."""
    path = confusion_file(folder, row.point)
    confusion = Confusion.load(path) if path.exists() else None
    per_class = {
        KINDS[kind].label: scores["per_class"]
        for kind, scores in row.scores.items()
        if scores and scores.get("per_class")
    }
    rows = []
    for name in dict.fromkeys(name for scores in per_class.values() for name in scores):
        shown = {label: _shown(scores.get(name)) for label, scores in per_class.items()}
        found = confusion[name] if confusion and name in confusion.classes else {}
        rows.append({"class": name, **shown, **found})
    if not rows:
        return f"Classes at {row.point}: the scores of this network are of all classes together."
    aligned = ["left", *["right"] * (max(map(len, rows)) - 1)]
    table = tabulate(rows, "keys", "simple", disable_numparse=True, colalign=aligned)
    text = f"Classes at {row.point}\n{table}"
    if confusion:
        text += (
            f"\nfound, missed, in vain: by detections from a score of {MIN_SCORE} on, on objects "
            f"whose boxes have an IoU of {MIN_IOU} or more with theirs"
        )
    return text


def _shown(score: float | None) -> str:
    return "-" if score is None else f"{score:.1f}"
