"""Checking a COCO-format data set before any long work: what is wrong, in which file and record."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from detectron2.utils.logger import log_first_n

from ..errors import UserError
from .flags import read_flag

NUM_EXAMPLES = 5


class DatasetError(UserError, ValueError):
    """A data set, its declaration or one of its records cannot be used."""


def check_declaration(key: str, entry: object, expected: Sequence[str]) -> None:
    """DatasetError unless a data set's entry in the config is a text for each of ``expected``."""
    if (
        not isinstance(entry, list | tuple)
        or len(entry) != len(expected)
        or not all(isinstance(text, str) and text for text in entry)
    ):
        raise DatasetError(f"{key} is {entry!r}; expected [{', '.join(expected)}].")


@dataclass(frozen=True)
class CheckedCoco:
    """The content of a COCO JSON file in which every record can be used."""

    data: dict
    is_changed: bool  # whether anything was left out, or a field read as another value

    @property
    def class_names(self) -> list[str]:
        """The categories' names in the order of Detectron2's class indices."""
        return [category["name"] for category in by_class(self.data)]


def by_class(data: dict) -> list[dict]:
    """The categories of a data set in the order of Detectron2's class indices: by their ids."""
    return sorted(data["categories"], key=lambda category: category["id"])


def check_coco_format(
    json_file: str,
    image_root: str | None,
    *,
    need_masks: bool,
    bad_records: str,
    need_instances: bool = False,
) -> CheckedCoco:
    """
    Read a COCO JSON file and check all its records, and that the images exist (but not their
    content).

    A file that contradicts itself (missing sections, repeated ids, annotations of unknown images or
    categories) is always an error. A bad record is an image without a file or size, a box without
    an area, an ``iscrowd`` that is neither 0 nor 1 (see ``read_flag``), and, with ``need_masks``, a
    mask that is missing, a polygon of fewer than 3 points or an RLE of another size than its
    image's.

    Args:
        image_root: folder of the images; None: do not look for them.
        need_masks: whether the masks are used. If not, broken ones are left out without a word.
        bad_records: "error", or "skip" to leave them out and log how many there were. An instance
            is left out with the last of its polygons.
        need_instances: whether the data set is trained on, and needs at least one object.

    Raises:
        DatasetError: naming the file, the records and what to do.
    """
    data = read_coco_json(json_file)
    _check_ids(json_file, data)
    num_annotations = len(data["annotations"])
    if need_masks and num_annotations and not any(map(_given_masks, data["annotations"])):
        raise DatasetError(
            f"{json_file} has boxes but no masks: none of its {num_annotations} annotations has a "
            "segmentation. Set MODEL.MASK_ON False to do without masks."
        )

    bad = _BadRecords()
    images = _usable_images(data["images"], image_root, bad)
    annotations = _usable_annotations(data["annotations"], images, need_masks, bad)
    if bad.counts and bad_records == "error":
        raise DatasetError(
            f"{json_file} has records that cannot be used:\n{bad}\n"
            "Correct them, or set MUTUALNET.BAD_RECORDS skip to leave them out."
        )
    if bad.counts:
        # A file is checked, loaded and scored on: its faults are told once.
        text = f"{json_file}: left out records that cannot be used:\n{bad}"
        log_first_n(logging.WARNING, text, name=__name__, key="message")
    if not images:
        why = f":\n{bad}" if bad.counts else "."
        raise DatasetError(f"{json_file} has no image that can be used{why}")
    if need_instances and not any(a.get("iscrowd", 0) == 0 for a in annotations):
        raise DatasetError(
            f"{json_file} has no object to learn from: none of its {num_annotations} annotations "
            f"in {len(data['images'])} images can be used and is no crowd (iscrowd 1)."
        )
    usable = {**data, "images": list(images.values()), "annotations": annotations}
    is_changed = (usable["images"], annotations) != (data["images"], data["annotations"])
    return CheckedCoco(usable, is_changed)


def read_coco_json(json_file: str) -> dict:
    """The content of a COCO JSON file with its sections present; DatasetError if it has not."""
    try:
        with open(json_file, encoding="utf-8") as file:
            data = json.load(file)
    except FileNotFoundError:
        raise DatasetError(f"There is no annotation file {json_file}.") from None
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{json_file} is not valid JSON: {error.msg} at line {error.lineno}, column "
            f"{error.colno} (character {error.pos} of {len(error.doc)}). Is it cut off?"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"Cannot read the annotation file {json_file}: {error}.") from None

    for section in ("images", "annotations", "categories"):
        content = data.get(section) if isinstance(data, dict) else None
        if not isinstance(content, list) or not all(isinstance(r, dict) for r in content):
            keys = f"the keys {', '.join(data)}" if isinstance(data, dict) else "a list"
            raise DatasetError(
                f"{json_file} has no list of records {section!r}, but {keys}. COCO's instance "
                "format has images, annotations and categories."
            )
    return data


# What is always an error -------------------------------------------------------------------------


def _check_ids(json_file: str, data: dict) -> None:
    images, annotations, categories = data["images"], data["annotations"], data["categories"]
    if not categories:
        raise DatasetError(f"{json_file} has no categories.")
    wanted = (
        ("image", images, ("id",), ("file_name",)),
        ("annotation", annotations, ("id", "image_id", "category_id"), ()),
        ("category", categories, ("id",), ("name",)),
    )
    for kind, records, ids, texts in wanted:
        for keys, type_, what in ((ids, int, "an integer"), (texts, str, "a string")):
            for key in keys:
                wrong = [i for i, r in enumerate(records) if not isinstance(r.get(key), type_)]
                if wrong:
                    examples = _examples((f"no. {i}: {records[i].get(key)!r}" for i in wrong), "; ")
                    raise DatasetError(
                        f"{json_file}: {key!r} must be {what} in every {kind}, and is not in "
                        f"{len(wrong)} of {len(records)}, counted from 0: {examples}."
                    )
        repeated = _repeated(r["id"] for r in records)
        if repeated:
            raise DatasetError(
                f"{json_file}: ids must be unique, and {len(repeated)} {kind} ids are not "
                f"({_examples(repeated)})."
            )
    for kind, records in (("image", images), ("category", categories)):
        known = {r["id"] for r in records}
        unknown = [a for a in annotations if a[f"{kind}_id"] not in known]
        if unknown:
            examples = _examples(
                (f"annotation {a['id']} names {kind} {a[f'{kind}_id']}" for a in unknown), "; "
            )
            raise DatasetError(
                f"{json_file}: {len(unknown)} of {len(annotations)} annotations name an unknown "
                f"{kind}: {examples}. Known are {len(known)} {kind} ids "
                f"({_examples(sorted(known))})."
            )


def _repeated(ids: Iterable[Hashable]) -> list[Hashable]:
    return [id_ for id_, count in Counter(ids).items() if count > 1]


# What can be left out ----------------------------------------------------------------------------


class _BadRecords:
    """Bad records by kind: how many, and the first few of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, record: str) -> None:
        self.counts[kind] += 1
        if len(self._examples[kind]) <= NUM_EXAMPLES:
            self._examples[kind].append(record)

    def __str__(self) -> str:
        return "\n".join(
            f"  {kind}: {count} ({_examples(self._examples[kind], '; ')})"
            for kind, count in self.counts.items()
        )


def _usable_images(images: list[dict], image_root: str | None, bad: _BadRecords) -> dict[int, dict]:
    """The images with a size and a file, by id."""
    exists = _FileFinder(image_root)
    usable = {}
    for image in images:
        height, width = image.get("height"), image.get("width")
        if not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
            what = f"image {image['id']}: width {width!r}, height {height!r}"
            bad.add("images whose width and height are not integers above 0", what)
        elif not exists(image["file_name"]):
            what = f"image {image['id']}: {image['file_name']}"
            bad.add(f"images without a file in {image_root}", what)
        else:
            usable[image["id"]] = image
    return usable


class _FileFinder:
    """Lookup of files below a folder. Each folder is listed once: one call, not one per image."""

    def __init__(self, root: str | None) -> None:
        if root is not None and not os.path.isdir(root):
            raise DatasetError(f"There is no image folder {root}.")
        self._root = root
        self._files: dict[str, set[str]] = {}

    def __call__(self, name: str) -> bool:
        if self._root is None:
            return True
        folder, base = os.path.split(os.path.join(self._root, name))
        if folder not in self._files:
            self._files[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        return base in self._files[folder]


def _usable_annotations(
    annotations: list[dict], images: dict[int, dict], need_masks: bool, bad: _BadRecords
) -> list[dict]:
    usable = []
    for annotation in annotations:
        image = images.get(annotation["image_id"])
        if image is None:
            bad.add("annotations of images that cannot be used", f"annotation {annotation['id']}")
            continue
        crowd = read_flag(annotation.get("iscrowd"))
        if crowd is None:
            what = f"{_where(annotation, image)}: {shortened(annotation['iscrowd'])}"
            bad.add("annotations whose iscrowd is neither 0 nor 1", what)
            continue
        if read_flag(annotation.get("ignore")) != 0 and not crowd:
            kind = "annotations with a field 'ignore', which COCO's scoring does not know"
            bad.add(f"{kind} (to be ignored, they need iscrowd 1)", _where(annotation, image))
            continue
        if not _is_box(annotation.get("bbox")):
            kind = "boxes that are not [x, y, width, height] in finite numbers with an area"
            bad.add(kind, f"{_where(annotation, image)}: {shortened(annotation.get('bbox'))}")
            continue
        given = _given_masks(annotation)
        masks = _usable_masks(annotation, image, bad if need_masks else _BadRecords())
        if need_masks and not masks:
            if not given:
                bad.add("annotations without a mask", _where(annotation, image))
            continue
        if masks != given:
            annotation = {**annotation, "segmentation": masks}
        # Detectron2 takes null for a crowd, and asserts that nothing is to be ignored.
        if annotation.get("iscrowd", crowd) != crowd or annotation.get("ignore", 0) != 0:
            annotation = {**annotation, "iscrowd": crowd, "ignore": 0}
        usable.append(annotation)
    return usable


def _given_masks(annotation: dict) -> object:
    """A list of polygons, an RLE, or whatever else the file has; an empty list for no mask."""
    return annotation.get("segmentation") or []


def _usable_masks(annotation: dict, image: dict, bad: _BadRecords) -> list | dict:
    """The polygons of an annotation that can be used, or its RLE, or an empty list."""
    masks = _given_masks(annotation)
    if isinstance(masks, dict):
        size = [image["height"], image["width"]]
        if _is_rle(masks, size):
            return masks
        what = f"{_where(annotation, image)}: size {masks.get('size')}, image {size}"
        bad.add("RLE masks that do not fill their image [height, width]", what)
        return []
    if not isinstance(masks, list):
        what = f"{_where(annotation, image)}: {shortened(masks)}"
        bad.add("masks that are neither a list of polygons nor RLE", what)
        return []
    usable = [polygon for polygon in masks if _is_polygon(polygon)]
    if len(usable) < len(masks):
        kind = "polygons that are not [x, y, x, y, ...] of 3 or more points in finite numbers"
        for polygon in masks:
            if not _is_polygon(polygon):
                bad.add(kind, f"{_where(annotation, image)}: {shortened(polygon)}")
    return usable


def _is_rle(rle: dict, size: list[int]) -> bool:
    counts = rle.get("counts")
    try:
        fills = isinstance(counts, str) or sum(counts) == math.prod(size)
    except TypeError:
        return False
    return fills and rle.get("size") == size


def _is_box(box: object) -> bool:
    try:
        x, y, width, height = box
        return math.isfinite(x + y + width + height) and width > 0 and height > 0
    except (TypeError, ValueError):
        return False


def _is_polygon(polygon: object) -> bool:
    try:
        return len(polygon) >= 6 and len(polygon) % 2 == 0 and math.isfinite(sum(polygon))
    except TypeError:
        return False


def _where(annotation: dict, image: dict) -> str:
    return f"annotation {annotation['id']} of {image['file_name']}"


def _examples(items: Iterable[object], separator: str = ", ") -> str:
    """The first few items as text, with an ellipsis if there are more."""
    shown = [str(item) for _, item in zip(range(NUM_EXAMPLES + 1), items, strict=False)]
    return separator.join([*shown[:NUM_EXAMPLES], *["..."] * (len(shown) > NUM_EXAMPLES)])


def shortened(value: object) -> str:
    """A value as it would be written, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
