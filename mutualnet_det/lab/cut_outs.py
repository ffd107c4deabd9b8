"""Objects of a COCO-format data set as images of their own: what a classifier can be trained on."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from detectron2.data.detection_utils import read_image
from PIL import Image

from ..data.coco_check import by_class, check_coco_format
from ..data.faults import DatasetError
from ..data.flags import read_flag
from ..evenly import evenly

# Of the longer side of an object: a little of what surrounds it tells what it is.
CONTEXT = 1.25


def cut_out_objects(
    annotations: str, images: str, output: Path, *, smallest: int, most: int
) -> dict[str, int]:
    """
    Write a folder with one subfolder of images per class, named ``<class>/<annotation id>.jpg``.

    An image is the square around an object's box, 1.25 times as long as its longer side, as far as
    it lies in the picture. Crowds are left out. Of a class with more objects than wanted, those are
    taken that are evenly spread over the file.

    Args:
        annotations: a JSON file in COCO's format; ``images``: the folder of its images.
        output: the folder, which must not be there yet.
        smallest: shorter side in pixels that an object's box has at least.
        most: objects of a class at most.

    Returns:
        the number of images by class.

    Raises:
        DatasetError: for records that cannot be used, a class without a large enough object, a
            class whose name is no folder's, or an output that is there already.
    """
    if output.exists():
        raise DatasetError(f"{output} is there already. Delete it, or choose another folder.")
    data = check_coco_format(annotations, images, need_masks=False, bad_records="error").data
    of_class: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in data["annotations"]:
        if min(annotation["bbox"][2:]) >= smallest and not read_flag(annotation.get("iscrowd")):
            of_class[annotation["category_id"]].append(annotation)
    chosen = {c["name"]: evenly(of_class[c["id"]], most) for c in by_class(data)}
    for name, objects in chosen.items():
        if not objects:
            raise DatasetError(f"{annotations} has no {name!r} of {smallest} px or more.")
        if Path(name).name != name or name == "..":
            raise DatasetError(f"{annotations}: the category {name!r} cannot be a folder's name.")
    files = {image["id"]: Path(images) / image["file_name"] for image in data["images"]}
    # An image is read once, whatever the number of its objects.
    in_image: dict[Any, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for name, objects in chosen.items():
        (output / name).mkdir(parents=True)
        for annotation in objects:
            in_image[annotation["image_id"]].append((name, annotation))
    for image_id, objects in in_image.items():
        image = Image.fromarray(read_image(str(files[image_id]), format="RGB"))
        for name, annotation in objects:
            window = square_around(annotation["bbox"], image.size)
            image.crop(window).save(output / name / f"{annotation['id']}.jpg", quality=95)
    return {name: len(objects) for name, objects in chosen.items()}


def square_around(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """
    The corners x0, y0, x1, y1 in pixels of the square around a box (x, y, width, height), as far as
    it lies in an image of this (width, height).
    """
    x, y, width, height = box
    half = CONTEXT * max(width, height) / 2
    middle = (x + width / 2, y + height / 2)
    left, top = (round(max(place - half, 0)) for place in middle)
    right, bottom = (
        round(min(place + half, side)) for place, side in zip(middle, size, strict=True)
    )
    return left, top, right, bottom
