"""Images to predict on, without a ground truth: those of a folder, or of a COCO-format file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .coco_check import read_json
from .faults import DatasetError, examples
from .image_files import ImageFiles


class ImageList(NamedTuple):
    """
    Images and the classes to find on them.

    Attributes:
        images: a COCO image record each, with at least ``id`` and ``file_name``.
        paths: of their files.
        categories: COCO category records, or None if nobody says how classes are numbered.
        source: what it was made of, for messages.
    """

    images: list[dict[str, Any]]
    paths: list[Path]
    categories: list[dict[str, Any]] | None
    source: str


def images_of_files(paths: Sequence[Path]) -> ImageList:
    """
    The list of image files, numbered from 1.

    The names of files that lie in one folder are written without it.
    """
    folders = {path.parent for path in paths}
    names = [path.name if len(folders) == 1 else str(path) for path in paths]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names, start=1)]
    return ImageList(images, list(paths), None, ", ".join(map(str, sorted(folders))))


def images_of_json(json_file: str, image_root: str) -> ImageList:
    """
    The images that a COCO-format file lists. It needs no annotations, and categories only where
    they are numbered otherwise than from 1 in the model's order.

    Args:
        image_root: folder that ``file_name`` counts from.

    Raises:
        DatasetError: naming the file and the records, if it lists no images, an id is missing or
            there twice, or a file is not there.
    """
    data = read_json(json_file, sections=("images",))
    images = data["images"]
    ids = [image.get("id") for image in images]
    nameless = [i for i, image in enumerate(images) if not isinstance(image.get("file_name"), str)]
    if not images:
        raise DatasetError(f"{json_file} lists no images.")
    if nameless:
        raise DatasetError(
            f"{json_file}: 'file_name' must be a string in every image, and is not in "
            f"{len(nameless)} of {len(images)}, counted from 0: {examples(nameless)}."
        )
    if not all(isinstance(id_, int | str) for id_ in ids) or len(set(ids)) < len(ids):
        raise DatasetError(f"{json_file}: every image needs an 'id' of its own.")
    files = ImageFiles(image_root)
    missing = [image["file_name"] for image in images if image["file_name"] not in files]
    if missing:
        meant = files.meant_by(missing[0])
        hint = f" {missing[0]} is there as {meant}." if meant else ""
        raise DatasetError(
            f"{json_file} lists {len(missing)} of {len(images)} images without a file in "
            f"{image_root}: {examples(missing)}.{hint}"
        )
    paths = [Path(os.path.join(image_root, image["file_name"])) for image in images]
    categories = data.get("categories") or None
    if categories is not None and not _are_categories(categories):
        raise DatasetError(
            f"{json_file}: 'categories' must be a list of records with an 'id', an integer, and a "
            "'name' each."
        )
    return ImageList(images, paths, categories, json_file)


def _are_categories(content: object) -> bool:
    return isinstance(content, list) and all(
        isinstance(record, dict)
        and isinstance(record.get("id"), int)
        and isinstance(record.get("name"), str)
        for record in content
    )


def category_ids(images: ImageList, classes: Sequence[str]) -> list[int]:
    """
    The category id of each class of a model, in its order: from 1, or by its name in the list's
    categories. DatasetError if these lack one.
    """
    if images.categories is None:
        return list(range(1, len(classes) + 1))
    by_name: dict[str, int] = {one["name"]: one["id"] for one in images.categories}
    missing = [name for name in classes if name not in by_name]
    if missing:
        raise DatasetError(
            f"{images.source} has no category for {len(missing)} of the model's {len(classes)} "
            f"classes: {examples(missing)}. It has {examples(by_name)}. Add them, or leave "
            "'categories' out: ids then count from 1 in the model's order."
        )
    return [by_name[name] for name in classes]
