"""Checking a COCO-format data set before any long work: what is wrong, in which file and record."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.utils.logger import log_first_n

from .faults import BadRecords, DatasetError, examples, shortened
from .flags import read_flag
from .geometry import (
    box_text,
    check_geometry,
    corners,
    covers_a_pixel,
    has_size,
    is_box,
    is_polygon,
    is_rle,
    share_inside,
)
from .image_files import ImageFiles
from .pixels import most_pixels, too_large

__all__ = [
    "BadRecords",
    "CheckedCoco",
    "DatasetError",
    "by_class",
    "check_coco_format",
    "check_declaration",
    "read_coco_json",
    "shortened",
]


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
    """
    The content of a COCO JSON file in which every record can be used.

    Attributes:
        data: the content.
        is_changed: whether anything was left out, or the file is in another encoding than others
            read.
        bad: what was left out.
        notes: what is unlikely, though it may be meant.
    """

    data: dict
    is_changed: bool
    bad: BadRecords = field(default_factory=BadRecords)
    notes: list[str] = field(default_factory=list)

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
    need_masks: bool | None,
    bad_records: str,
    need_instances: bool = False,
) -> CheckedCoco:
    """
    Read a COCO JSON file and check all its records, and that the images exist (but not their
    content).

    A file that contradicts itself (missing sections, repeated ids, annotations of unknown images or
    categories) is always an error, and so are boxes that cannot be meant: see
    :func:`~mutualnet_det.data.geometry.check_geometry`. A bad record is an image without a file or
    size, a box without an area or outside its image, an ``iscrowd`` that is neither 0 nor 1 (see
    ``read_flag``), and, with ``need_masks``, a mask that is missing or covers no pixel, a polygon
    of fewer than 3 points or an RLE of another size than its image's. What is unlikely, and may be
    meant, is logged.

    Args:
        image_root: folder of the images; None: do not look for them.
        need_masks: whether the masks are used. If not, broken ones are left out without a word.
            None: if there are any.
        bad_records: "error"; "skip" to leave them out and log how many there were; "collect" to
            leave them to the caller to tell. An instance is left out with the last of its polygons.
        need_instances: whether the data set is trained on, and needs at least one object.

    Raises:
        DatasetError: naming the file, the records and what to do.
    """
    data = read_coco_json(json_file)
    is_changed = _name_images_by_url(data["images"]) or not _is_plain_utf8(json_file)
    _check_ids(json_file, data)
    num_annotations = len(data["annotations"])
    has_masks = any(map(_given_masks, data["annotations"]))
    need_masks = has_masks if need_masks is None else need_masks
    if need_masks and num_annotations and not has_masks:
        raise DatasetError(
            f"{json_file} has boxes but no masks: none of its {num_annotations} annotations has a "
            "segmentation. Set MODEL.MASK_ON False to do without masks."
        )

    notes = check_geometry(json_file, data)
    bad = BadRecords()
    images = _usable_images(data["images"], image_root, bad)
    annotations = _usable_annotations(data["annotations"], images, need_masks, bad)
    if bad and bad_records == "error":
        raise DatasetError(
            f"{json_file} has records that cannot be used:\n{bad}\n"
            "Correct them, or set MUTUALNET.BAD_RECORDS skip to leave them out."
        )
    told = [f"left out records that cannot be used:\n{bad}"] if bad else []
    if notes:
        told.append("unlikely, and used as it is:\n" + "\n".join(f"  {note}" for note in notes))
    if told and bad_records != "collect":
        # A file is checked, loaded and scored on: its faults are told once.
        text = f"{json_file}: " + "\n".join(told)
        log_first_n(logging.WARNING, text, name=__name__, key="message")
    if not images:
        why = f":\n{bad}" if bad else "."
        raise DatasetError(f"{json_file} has no image that can be used{why}")
    if need_instances and not any(a.get("iscrowd", 0) == 0 for a in annotations):
        raise DatasetError(
            f"{json_file} has no object to learn from: none of its {num_annotations} annotations "
            f"in {len(data['images'])} images can be used and is no crowd (iscrowd 1)."
        )
    usable = {**data, "images": list(images.values()), "annotations": annotations}
    is_changed |= (usable["images"], annotations) != (data["images"], data["annotations"])
    return CheckedCoco(usable, is_changed, bad, notes)


def read_coco_json(json_file: str) -> dict:
    """The content of a COCO JSON file with all its sections; DatasetError if it has not."""
    return read_json(json_file, ("images", "annotations", "categories"))


def read_json(json_file: str, sections: Sequence[str]) -> dict:
    """The content of a JSON file with these lists of records; DatasetError if it has not."""
    try:
        with open(json_file, "rb") as file:
            data = json.loads(file.read())  # of bytes it knows the encoding, and takes a mark
    except FileNotFoundError:
        raise DatasetError(f"There is no annotation file {json_file}.") from None
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{json_file} is not valid JSON: {error.msg} at line {error.lineno}, column "
            f"{error.colno} (character {error.pos} of {len(error.doc)}). Is it cut off?"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"Cannot read the annotation file {json_file}: {error}.") from None

    for section in sections:
        content = data.get(section) if isinstance(data, dict) else None
        if not isinstance(content, list) or not all(isinstance(r, dict) for r in content):
            keys = f"the keys {', '.join(data)}" if isinstance(data, dict) else "a list"
            raise DatasetError(
                f"{json_file} has no list of records {section!r}, but {keys}. COCO's instance "
                f"format has {', '.join(sections)}."
            )
    return data


def _name_images_by_url(images: list[dict]) -> bool:
    """Name LVIS's images, COCO's of several splits, by split and file; tell if there are any."""
    named = [image for image in images if "neg_category_ids" in image and "coco_url" in image]
    for image in named:
        image["file_name"] = "/".join(str(image["coco_url"]).split("/")[-2:])
    return bool(named)


def _is_plain_utf8(json_file: str) -> bool:
    """Tell whether a JSON file is in UTF-8 without a mark: all that pycocotools reads."""
    with open(json_file, "rb") as file:
        return json.detect_encoding(file.read(4)) == "utf-8"


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
                    shown = examples((f"no. {i}: {records[i].get(key)!r}" for i in wrong), "; ")
                    raise DatasetError(
                        f"{json_file}: {key!r} must be {what} in every {kind}, and is not in "
                        f"{len(wrong)} of {len(records)}, counted from 0: {shown}."
                    )
        repeated = _repeated(r["id"] for r in records)
        if repeated:
            raise DatasetError(
                f"{json_file}: ids must be unique, and {len(repeated)} {kind} ids are not "
                f"({examples(repeated)})."
            )
    for kind, records in (("image", images), ("category", categories)):
        known = {r["id"] for r in records}
        unknown = [a for a in annotations if a[f"{kind}_id"] not in known]
        if unknown:
            shown = examples(
                (f"annotation {a['id']} names {kind} {a[f'{kind}_id']}" for a in unknown), "; "
            )
            raise DatasetError(
                f"{json_file}: {len(unknown)} of {len(annotations)} annotations name an unknown "
                f"{kind}: {shown}. Known are {len(known)} {kind} ids "
                f"({examples(sorted(known))})."
            )


def _repeated(ids: Iterable[Hashable]) -> list[Hashable]:
    return [id_ for id_, count in Counter(ids).items() if count > 1]


# What can be left out ----------------------------------------------------------------------------


def _usable_images(images: list[dict], image_root: str | None, bad: BadRecords) -> dict[int, dict]:
    """The images with a size and a file, by id."""
    files = ImageFiles(image_root)
    usable = {}
    for image in images:
        if not has_size(image):
            what = (
                f"image {image['id']}: width {image.get('width')!r}, height {image.get('height')!r}"
            )
            bad.add("images whose width and height are not integers above 0", what)
            bad.images.append(image["file_name"])
        elif image["height"] * image["width"] > most_pixels():
            what = f"image {image['id']}: {image['width']} x {image['height']} px"
            bad.add(too_large(), what)
            bad.images.append(image["file_name"])
        elif image["file_name"] not in files:
            what = f"image {image['id']}: {image['file_name']}"
            meant = files.meant_by(image["file_name"])
            if meant is None:
                bad.add(f"images without a file in {image_root}", what)
            else:
                kind = f"images whose file in {image_root} has another name than file_name says"
                bad.add(kind, f"{what} is there as {meant}")
            bad.images.append(image["file_name"])
        else:
            usable[image["id"]] = image
    return usable


def _usable_annotations(
    annotations: list[dict], images: dict[int, dict], need_masks: bool, bad: BadRecords
) -> list[dict]:
    usable = []
    for annotation in annotations:
        kept = _usable(annotation, images.get(annotation["image_id"]), need_masks, bad)
        if kept is None:
            bad.objects[annotation["category_id"]] += 1
        else:
            usable.append(kept)
    return usable


def _usable(annotation: dict, image: dict | None, need_masks: bool, bad: BadRecords) -> dict | None:
    """The annotation with those of its masks that can be used, or None."""
    if image is None:
        bad.add("annotations of images that cannot be used", f"annotation {annotation['id']}")
        return None
    crowd = read_flag(annotation.get("iscrowd"))
    if crowd is None:
        what = f"{_where(annotation, image)}: {shortened(annotation['iscrowd'])}"
        bad.add("annotations whose iscrowd is neither 0 nor 1", what)
        return None
    if read_flag(annotation.get("ignore")) != 0 and not crowd:
        kind = "annotations with a field 'ignore', which COCO's scoring does not know"
        bad.add(f"{kind} (to be ignored, they need iscrowd 1)", _where(annotation, image))
        return None
    box: Any = annotation.get("bbox")
    size = image["height"], image["width"]
    if not is_box(box):
        kind = "boxes that are not [x, y, width, height] in finite numbers with an area"
        bad.add(kind, f"{_where(annotation, image)}: {shortened(box)}")
        return None
    if not share_inside(corners(box), *size):
        kind = "boxes outside their image, where nothing can be found"
        what = f"{box_text(box)}, image {size[1]} x {size[0]} px"
        bad.add(kind, f"{_where(annotation, image)}: {what}")
        return None
    given = _given_masks(annotation)
    masks = _usable_masks(annotation, image, bad if need_masks else BadRecords())
    if need_masks and not masks:
        if not given:
            bad.add("annotations without a mask", _where(annotation, image))
        return None
    if need_masks and not covers_a_pixel(masks, *size):
        what = f"{_where(annotation, image)}: {shortened(masks)}"
        bad.add("masks that cover no pixel of their image", what)
        return None
    if masks != given:
        annotation = {**annotation, "segmentation": masks}
    # Detectron2 takes null for a crowd, and asserts that nothing is to be ignored.
    if annotation.get("iscrowd", crowd) != crowd or annotation.get("ignore", 0) != 0:
        annotation = {**annotation, "iscrowd": crowd, "ignore": 0}
    return annotation


def _given_masks(annotation: dict) -> object:
    """A list of polygons, an RLE, or whatever else the file has; an empty list for no mask."""
    return annotation.get("segmentation") or []


def _usable_masks(annotation: dict, image: dict, bad: BadRecords) -> list | dict:
    """The polygons of an annotation that can be used, or its RLE, or an empty list."""
    masks = _given_masks(annotation)
    if isinstance(masks, dict):
        size = [image["height"], image["width"]]
        if is_rle(masks, size):
            return masks
        what = f"{_where(annotation, image)}: size {masks.get('size')}, image {size}"
        bad.add("RLE masks that do not fill their image [height, width]", what)
        return []
    if not isinstance(masks, list):
        what = f"{_where(annotation, image)}: {shortened(masks)}"
        bad.add("masks that are neither a list of polygons nor RLE", what)
        return []
    usable = [polygon for polygon in masks if is_polygon(polygon)]
    if len(usable) < len(masks):
        kind = "polygons that are not [x, y, x, y, ...] of 3 or more points in finite numbers"
        for polygon in masks:
            if not is_polygon(polygon):
                bad.add(kind, f"{_where(annotation, image)}: {shortened(polygon)}")
    return usable


def _where(annotation: dict, image: dict) -> str:
    return f"annotation {annotation['id']} of {image['file_name']}"
