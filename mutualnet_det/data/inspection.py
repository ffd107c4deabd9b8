"""
Data sets inspected without training: what would be learned from and scored, every image file's
header, and images that stand in two places.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog

from ..errors import UserError
from .class_summary import ImagesSummary
from .classification import images_summary
from .coco_check import CheckedCoco, check_coco_format
from .faults import BadRecords, DatasetError, examples
from .image_faults import Header, each_of, fault_of, header_or_fault
from .summary import DatasetSummary, summarise, table


class DatasetFiles(NamedTuple):
    """A data set in COCO's format: its name, annotation file and image folder."""

    name: str
    json_file: str
    image_root: str


class ClassFolder(NamedTuple):
    """A registered data set for classification: its name, and the folder of its files."""

    name: str
    image_root: str


@dataclass
class Inspected:
    """
    What was found in a data set.

    Attributes:
        files: of the data set.
        error: what ends every use of it; then the rest is empty.
        checked: its records that can be used, of one in COCO's format.
        labels: of one for classification, the name of each image's class by its path.
        summary: what it holds.
        unusable: the ids of images whose files cannot be used; without ids, their places.
        bad_images: why they cannot.
        headers: of the image files that have one, by their paths.
        modes: how many images have each of Pillow's modes.
        num_turned: images that lie on their side, by EXIF.
        sides: the least and the largest side of an image in px.
    """

    files: DatasetFiles | ClassFolder
    error: str = ""
    checked: CheckedCoco | None = None
    labels: dict[str, str] = field(default_factory=dict)
    summary: DatasetSummary | ImagesSummary | None = None
    unusable: set[int] = field(default_factory=set)
    bad_images: BadRecords = field(default_factory=BadRecords)
    headers: dict[str, Header] = field(default_factory=dict)
    modes: Counter[str] = field(default_factory=Counter)
    num_turned: int = 0
    sides: tuple[int, int] = (0, 0)

    @property
    def is_sound(self) -> bool:
        """Whether all of it can be used."""
        return self.summary is not None and not self.bad_images and not self.summary.bad

    def __str__(self) -> str:
        if self.summary is None:
            return f"{self.files.name}: cannot be used\n{self.error}"
        lines = [self.summary.text(sizes=True)]
        modes = ", ".join(f"{count} {mode}" for mode, count in self.modes.most_common())
        turned = f"; {self.num_turned} turned by EXIF" if self.num_turned else ""
        if modes:
            sides = " to ".join(map(str, dict.fromkeys(self.sides)))
            lines.append(f"sides of {sides} px; {modes}{turned}")
        for title, bad in (("records", self.summary.bad), ("images", self.bad_images)):
            if bad:
                lines.append(f"{title} that cannot be used:\n{bad}")
        lines += [f"unlikely: {note}" for note in self.summary.notes]
        return "\n".join([*lines, *self.summary.advice()])


@dataclass(frozen=True)
class Inspection:
    """
    What was found in some data sets.

    Attributes:
        datasets: one by one.
        duplicates: paths of image files with the same content.
    """

    datasets: tuple[Inspected, ...]
    duplicates: tuple[tuple[str, ...], ...]

    @property
    def is_sound(self) -> bool:
        """Whether all records of all data sets can be used."""
        return all(inspected.is_sound for inspected in self.datasets)

    def __str__(self) -> str:
        parts = [*map(str, self.datasets), *self._classes(), self._duplicates()]
        return "\n\n".join(parts)

    def _classes(self) -> list[str]:
        """The classes of several data sets side by side."""
        known = [each.summary for each in self.datasets if each.summary is not None]
        if len(known) < 2:
            return []
        counts = [summary.counts for summary in known]
        names = [[name for name, _ in each] for each in counts]
        head = ["class", *(summary.name for summary in known)]
        if all(each == names[0] for each in names):
            rows = [
                [name, *(each[index][1] for each in counts)] for index, name in enumerate(names[0])
            ]
            return ["\n".join([f"{known[0].unit} of each class", *table([head, *rows])])]
        longest = max(map(len, names))
        rows = [
            [index, *(each[index] if index < len(each) else "-" for each in names)]
            for index in range(longest)
        ]
        differ = "the classes DIFFER: a model numbers them in one way"
        return ["\n".join([differ, *table([head, *rows])])]

    def _duplicates(self) -> str:
        if not self.duplicates:
            return "no image stands in two places"
        folders = {each.files.image_root: each.files.name for each in self.datasets}
        between = [paths for paths in self.duplicates if len(_owners(paths, folders)) > 1]
        lines = [f"{len(self.duplicates)} images stand in several places"]
        if between:
            shown = examples((" = ".join(paths) for paths in between), "; ")
            lines.append(f"{len(between)} of them in several data sets, so that what is scored on "
                         f"may have been learned: {shown}")  # fmt: skip
        within = [paths for paths in self.duplicates if paths not in between]
        if within:
            shown = examples((" = ".join(paths) for paths in within), "; ")
            lines.append(f"{len(within)} within one data set: {shown}")
        labels = {path: label for each in self.datasets for path, label in each.labels.items()}
        torn = [
            paths
            for paths in self.duplicates
            if len({labels[path] for path in paths if path in labels}) > 1
        ]
        if torn:
            shown = examples((" = ".join(paths) for paths in torn), "; ")
            lines.append(f"{len(torn)} of them under several classes: {shown}")
        return "\n".join(lines)


def _owners(paths: Iterable[str], folders: dict[str, str]) -> set[str]:
    return {name for path in paths for root, name in folders.items() if _is_below(path, root)}


def _is_below(path: str, root: str) -> bool:
    return path.startswith(os.path.join(root, ""))


def inspect_datasets(
    datasets: Sequence[DatasetFiles | ClassFolder],
    *,
    need_masks: bool | None = None,
    decode: bool = False,
) -> Inspection:
    """
    Inspect data sets in COCO's format, or for classification.

    Args:
        need_masks: whether masks are learned and scored; None: where there are any.
        decode: decode all images, not those alone that do not end as they should.
    """
    inspected, sizes = [], defaultdict(list)
    for files in datasets:
        if isinstance(files, ClassFolder):
            one = _inspect_classes(files, decode)
        else:
            one = _inspect_coco(files, need_masks, decode)
        inspected.append(one)
        for path, header in one.headers.items():
            sizes[header.num_bytes, header.width, header.height].append(path)
    alike = [path for paths in sizes.values() if len(set(paths)) > 1 for path in sorted({*paths})]
    by_content = defaultdict(list)
    for path, digest in zip(alike, each_of(_digest, alike, "Comparing images"), strict=True):
        by_content[digest].append(path)
    same = (tuple(paths) for digest, paths in by_content.items() if digest and len(paths) > 1)
    return Inspection(tuple(inspected), tuple(same))


def _inspect_coco(files: DatasetFiles, need_masks: bool | None, decode: bool) -> Inspected:
    name, json_file, image_root = files
    one = Inspected(files)
    try:
        checked = check_coco_format(
            json_file, image_root, need_masks=need_masks, bad_records="collect"
        )
    except DatasetError as error:
        one.error = str(error)
        return one
    records = [
        {**image, "file_name": os.path.join(image_root, image["file_name"])}
        for image in checked.data["images"]
    ]
    _read_images(one, records, decode)
    one.checked = checked
    one.summary = summarise(name, checked, one.unusable)
    return one


def _inspect_classes(files: ClassFolder, decode: bool) -> Inspected:
    one = Inspected(files)
    try:
        records = DatasetCatalog.get(files.name)
    except UserError as error:
        one.error = str(error)
        return one
    # Those of CIFAR are rows of one file.
    with_files = [{**r, "id": place} for place, r in enumerate(records) if "row" not in r]
    _read_images(one, with_files, decode)
    one.summary = images_summary(files.name, records, one.unusable)
    names = [name for name, _ in one.summary.counts]
    one.labels = {record["file_name"]: names[record["label"]] for record in with_files}
    return one


def _read_images(one: Inspected, records: list[dict], decode: bool) -> None:
    """Read the headers of all images into ``one``."""
    found = each_of(
        lambda record: header_or_fault(record, decode=decode),
        records,
        f"Reading images of {one.files.name}",
    )
    for record, header in zip(records, found, strict=True):
        path = record["file_name"]
        if isinstance(header, Header):
            one.headers[path] = header
            one.modes[header.mode] += 1
            one.num_turned += header.is_turned
        fault = fault_of(record, header)
        if fault is not None:
            one.unusable.add(record["id"])
            one.bad_images.add(fault.kind, f"{path}: {fault.reason}")
    sides = [side for h in one.headers.values() for side in (h.width, h.height)]
    one.sides = min(sides, default=0), max(sides, default=0)


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:  # it was there a moment ago
        return ""


# Mending -----------------------------------------------------------------------------------------


def fixed(inspected: Inspected, *, crowds_are_objects: bool = False) -> tuple[dict, list[str]]:
    """
    A data set without what cannot be used.

    Args:
        crowds_are_objects: whether each crowd becomes an object, as masks that were drawn with a
            brush often are.

    Returns:
        the content of its COCO JSON file, and what was changed: a line each.

    Raises:
        DatasetError: for one that cannot be used at all.
    """
    if inspected.checked is None:
        reason = inspected.error or "It has no annotation file: mend its images themselves."
        raise DatasetError(f"{inspected.files.name} cannot be mended. {reason}")
    data, bad = inspected.checked.data, inspected.checked.bad
    lines = [f"left out: {count} {kind}" for kind, count in bad.counts.items()]
    lines += [f"left out: {n} {kind}" for kind, n in inspected.bad_images.counts.items()]
    kept = [a for a in data["annotations"] if a["image_id"] not in inspected.unusable]
    dropped = len(data["annotations"]) - len(kept)
    if dropped:
        lines.append(f"left out: {dropped} annotations of these images")
    if crowds_are_objects:
        crowds = sum(bool(a.get("iscrowd", 0)) for a in kept)
        kept = [{**a, "iscrowd": 0} for a in kept]
        lines.append(f"{crowds} crowds are objects now")
    images = [image for image in data["images"] if image["id"] not in inspected.unusable]
    return {**data, "images": images, "annotations": kept}, lines


def drawable(inspected: Inspected) -> tuple[list[dict], dict]:
    """
    The images of a data set that can be used, and their objects; a classified image is one object.

    Returns:
        "image_id", "file_name", "height" and "width" of each image, and COCO ground truth.
    """
    if inspected.checked is not None:
        data, _ = fixed(inspected)
        root = inspected.files.image_root
        records = [
            {**image, "image_id": image["id"], "file_name": os.path.join(root, image["file_name"])}
            for image in data["images"]
        ]
        return records, {**data, "annotations": [{"iscrowd": 0, **a} for a in data["annotations"]]}
    names = list(dict.fromkeys(inspected.labels.values()))
    records, annotations = [], []
    usable = [path for path in inspected.labels if path in inspected.headers]
    for number, path in enumerate(usable):
        width, height = inspected.headers[path][:2]
        size = {"height": height, "width": width}
        records.append({"image_id": number, "file_name": path, **size})
        annotations.append(
            {
                "image_id": number,
                "category_id": names.index(inspected.labels[path]),
                "bbox": [0, 0, width, height],
                "iscrowd": 0,
            }
        )
    categories = [{"id": label, "name": name} for label, name in enumerate(names)]
    return records, {"annotations": annotations, "categories": categories}


def write_json(path: str, content: dict[str, Any]) -> None:
    """Write a COCO JSON file; DatasetError if there is a file already, or it cannot be written."""
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(content, file)
    except FileExistsError:
        raise DatasetError(f"{path} is there already. Name another file.") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error.strerror}.") from error
