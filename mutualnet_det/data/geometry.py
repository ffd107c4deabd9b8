"""Boxes and masks of a COCO-format data set as shapes: whether they can be meant."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from operator import mul
from typing import Any

from pycocotools import mask as mask_util

from .faults import DatasetError, examples
from .flags import read_flag
from .masks import run_lengths

# Left, top, right and bottom in px.
Corners = tuple[float, float, float, float]

# A box leaves its image if less of its area than this lies inside. Tools round, and some draw
# objects a little over the edge.
LEAST_INSIDE = 0.9
# A box and its mask disagree below this intersection over union, where one is longer than MIN_SIDE
# px: of smaller ones, rounding alone may be to blame.
LEAST_AGREEMENT = 0.5
MIN_SIDE = 8
# From this share on, a fault is no slip in single records but in how all were written.
SHARE_OF_ALL = 0.5
SHARE_OF_CORNERS = 0.1
# Of fewer boxes, most say nothing of all.
LEAST_BOXES = 5


# One box, one mask -------------------------------------------------------------------------------


def is_box(box: Any) -> bool:
    """Whether a box is [x, y, width, height] in finite numbers with an area."""
    try:
        x, y, width, height = box
        return math.isfinite(x + y + width + height) and width > 0 and height > 0
    except (TypeError, ValueError):
        return False


def is_polygon(polygon: Any) -> bool:
    """Whether a polygon is [x, y, x, y, ...] of 3 or more points in finite numbers."""
    try:
        return len(polygon) >= 6 and len(polygon) % 2 == 0 and math.isfinite(sum(polygon))
    except TypeError:
        return False


def is_rle(rle: dict, size: list[int]) -> bool:
    """Whether an RLE, compressed or not, is of an image of ``size``, (height, width)."""
    counts: Any = rle.get("counts")
    try:
        filled = _pixels(counts) if isinstance(counts, str) else sum(counts)
    except TypeError:
        return False
    return filled == math.prod(size) and rle.get("size") == size


def _pixels(counts: str) -> int:
    """
    How many pixels a compressed RLE fills; -1 if it is none, of which pycocotools makes anything.

    A run takes some characters of 5 bits each, the lowest first, with a bit that tells whether more
    follow; from the fourth on, it is the difference to the one before the last.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64:
            return -1
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:  # negative
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return sum(runs) if shift == 0 and min(runs, default=-1) >= 0 else -1


def box_text(box: Sequence[float]) -> str:
    """The box as a message shows it."""
    return f"[{', '.join(f'{value:g}' for value in box)}]"


def corners(box: Sequence[float]) -> Corners:
    """The corners of [x, y, width, height]."""
    x, y, width, height = box
    return x, y, x + width, y + height


def share_inside(box: Corners, height: int, width: int) -> float:
    """The share of a box's area that lies inside its image."""
    left, top, right, bottom = box
    inside = _area((max(left, 0), max(top, 0), min(right, width), min(bottom, height)))
    return inside / _area(box) if inside else 0.0


def polygon_area(polygon: Sequence[float]) -> float:
    """The area in px^2; parts that run the other way round count against the others."""
    xs, ys = polygon[::2], polygon[1::2]
    forth = sum(map(mul, xs, [*ys[1:], ys[0]]))
    return abs(forth - sum(map(mul, ys, [*xs[1:], xs[0]]))) / 2


def covers_a_pixel(masks: list | dict, height: int, width: int) -> bool:
    """Whether usable polygons together, or an RLE, have a pixel of their image."""
    if isinstance(masks, list):
        for polygon in masks:
            xs, ys = polygon[::2], polygon[1::2]
            # To draw it takes longer than to see that it is there.
            inside = min(xs) > -1 and min(ys) > -1 and max(xs) < width + 1 and max(ys) < height + 1
            if inside and polygon_area(polygon) > 1:
                return True
    return bool(mask_util.area(run_lengths(masks, height, width)))


def mask_bounds(masks: list | dict, height: int, width: int) -> Corners:
    """The box around usable polygons, or around an RLE."""
    if isinstance(masks, dict):
        return corners(mask_util.toBbox(run_lengths(masks, height, width)).tolist())
    xs = list(chain.from_iterable(polygon[::2] for polygon in masks))
    ys = list(chain.from_iterable(polygon[1::2] for polygon in masks))
    return min(xs), min(ys), max(xs), max(ys)


def _area(box: Corners) -> float:
    left, top, right, bottom = box
    return max(right - left, 0) * max(bottom - top, 0)


def _agreement(one: Corners, other: Corners) -> float:
    """Intersection over union."""
    shared = _area(
        (
            max(one[0], other[0]),
            max(one[1], other[1]),
            min(one[2], other[2]),
            min(one[3], other[3]),
        )
    )
    return shared / (_area(one) + _area(other) - shared) if shared else 0.0


# All together ------------------------------------------------------------------------------------

# What a box may have been written as instead of [x, y, width, height], given its image's size.
READINGS: dict[str, Callable[[Sequence[float], int, int], Corners]] = {
    "[left, top, right, bottom]": lambda box, height, width: (box[0], box[1], box[2], box[3]),
    "[middle x, middle y, width, height]": lambda box, height, width: corners(
        (box[0] - box[2] / 2, box[1] - box[3] / 2, box[2], box[3])
    ),
    "[y, x, height, width]": lambda box, height, width: corners((box[1], box[0], box[3], box[2])),
    "fractions of the image": lambda box, height, width: corners(
        (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    ),
}


def check_geometry(json_file: str, data: dict) -> list[str]:
    """
    Check what boxes and masks mean, by all of them together.

    Args:
        data: the content of a COCO JSON file whose ids fit.

    Returns:
        what is unlikely though it may be meant: a line for each, with counts.

    Raises:
        DatasetError: for what cannot be meant: coordinates that are no pixels, corners or middles
            for [x, y, width, height], most boxes beyond their images or away from their masks.
    """
    images = {image["id"]: image for image in data["images"]}
    boxes = [
        (annotation, corners(annotation["bbox"]), image["height"], image["width"])
        for annotation in data["annotations"]
        if is_box(annotation.get("bbox")) and has_size(image := images[annotation["image_id"]])
    ]
    if not boxes:
        return []
    return [*_check_units(json_file, boxes), *_check_places(json_file, boxes)]


def _check_units(json_file: str, boxes: _Boxes) -> list[str]:
    """Notes on boxes in other units than pixels; DatasetError if most are."""
    counted = f"of {len(boxes)} boxes"
    fractions = [each for each in boxes if max(each[0]["bbox"]) <= 1.01]
    if len(fractions) > SHARE_OF_ALL * len(boxes):
        raise DatasetError(
            f"{json_file}: {len(fractions)} {counted} lie between 0 and 1 "
            f"({_names(fractions)}). COCO's format counts coordinates in pixels: multiply x and "
            "width by the image's width, y and height by its height, of the polygons too."
        )
    if fractions:
        return [
            f"{len(fractions)} {counted} lie between 0 and 1 ({_names(fractions)}): are they "
            "fractions of the image instead of pixels?"
        ]
    least = min(min(each[2:]) for each in boxes)
    if len(boxes) >= 20 and max(max(each[1]) for each in boxes) <= 100 and least > 200:
        return [
            f"all {len(boxes)} boxes lie within the first 100 px of their images, whose sides are "
            f"{least} px and more: are they percent instead of pixels?"
        ]
    return []


def _check_places(json_file: str, boxes: _Boxes) -> list[str]:
    """Notes on boxes beyond their images or away from their masks; DatasetError if most are."""
    notes = []
    counted = f"of {len(boxes)} boxes"
    shares = [(each, share_inside(*each[1:])) for each in boxes]
    leaving = [(each, share) for each, share in shares if share < LEAST_INSIDE]
    # One that is all outside is a bad record by itself, unless all may be of larger images: then
    # some are half outside, and none is to the left or above.
    larger = any(share for _, share in leaving) and all(min(each[1][:2]) > -1 for each in boxes)
    outside = [each for each, share in leaving if share or larger]
    as_corners = all(_is_within(a["bbox"], height, width) for a, _, height, width in boxes)
    if as_corners and len(outside) > SHARE_OF_CORNERS * len(boxes):
        raise DatasetError(
            f"{json_file}: {len(outside)} {counted} leave their image ({_names(outside)}), and "
            "none does if all are read as [left, top, right, bottom]. COCO's format has [x, y, "
            "width, height]: subtract x and y from the last two."
        )
    disagreeing, compared = _away_from_masks(boxes)
    if len(compared) >= LEAST_BOXES and len(disagreeing) > SHARE_OF_ALL * len(compared):
        raise DatasetError(
            f"{json_file}: {len(disagreeing)} of {len(compared)} boxes are away from their masks "
            f"({_names(disagreeing)}).{_likely_reading(compared)} COCO's format has [x, y, width, "
            "height] in pixels, and the box goes around the mask."
        )
    if len(boxes) >= LEAST_BOXES and len(outside) > SHARE_OF_ALL * len(boxes):
        raise DatasetError(
            f"{json_file}: {len(outside)} {counted} leave their image ({_names(outside)}). COCO's "
            "format has [x, y, width, height] in pixels of the image whose width and height the "
            "file tells. Were the images resized, or cut, and the boxes not?"
        )
    if disagreeing:
        notes.append(
            f"{len(disagreeing)} of {len(compared)} boxes are away from their masks "
            f"({_names(disagreeing)})"
        )
    outside = [each for each, share in leaving if share]
    if outside:
        notes.append(
            f"{len(outside)} {counted} have more than a tenth of their area outside their image "
            f"({_names(outside)})"
        )
    return notes


def has_size(image: Mapping[str, object]) -> bool:
    """Whether an image's width and height are integers above 0."""
    height, width = image.get("height"), image.get("width")
    return isinstance(height, int) and isinstance(width, int) and min(height, width) > 0


_Boxes = list[tuple[dict, Corners, int, int]]


def _names(boxes: _Boxes) -> str:
    named = (f"annotation {each[0]['id']}: {box_text(each[0]['bbox'])}" for each in boxes)
    return examples(named, "; ")


def _is_within(box: Sequence[float], height: int, width: int) -> bool:
    """Whether a box can be [left, top, right, bottom]."""
    left, top, right, bottom = box
    return left < right <= width + 1 and top < bottom <= height + 1


def _away_from_masks(boxes: _Boxes) -> tuple[_Boxes, _Boxes]:
    """The boxes that are not those of their masks, and all that can be compared."""
    disagreeing, compared = [], []
    for each, bounds in _with_bounds(boxes):
        if (
            max(bounds[2] - bounds[0], bounds[3] - bounds[1]) > MIN_SIDE
            or max(each[0]["bbox"][2:]) > MIN_SIDE
        ):
            compared.append(each)
            if _agreement(each[1], bounds) < LEAST_AGREEMENT:
                disagreeing.append(each)
    return disagreeing, compared


def _with_bounds(boxes: _Boxes) -> Iterator[tuple[tuple[dict, Corners, int, int], Corners]]:
    for each in boxes:
        annotation, _, height, width = each
        if read_flag(annotation.get("iscrowd")):  # of a crowd, the mask may be a part
            continue
        masks: Any = annotation.get("segmentation")
        if _has_bounds(masks, height, width):
            yield each, mask_bounds(masks, height, width)


def _has_bounds(masks: Any, height: int, width: int) -> bool:
    """Bounds of a line say nothing; a mask in other units may be too small for a pixel."""
    if isinstance(masks, dict):
        return is_rle(masks, [height, width])
    return (
        isinstance(masks, list)
        and all(map(is_polygon, masks))
        and any(polygon_area(polygon) > 1e-6 for polygon in masks)
    )


def _likely_reading(boxes: _Boxes) -> str:
    for name, read in READINGS.items():
        bounds = list(_with_bounds(boxes))
        agree = sum(
            _agreement(read(each[0]["bbox"], *each[2:]), around) >= LEAST_AGREEMENT
            for each, around in bounds
        )
        if agree > 0.9 * len(bounds):
            return f" Read as {name}, {agree} fit."
    return ""
