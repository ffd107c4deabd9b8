"""The generated shapes data sets: images and COCO JSON on disk, equal for equal seeds."""

from __future__ import annotations

import functools
import io
import json
import logging
import multiprocessing
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..coco import register_coco
from .making import (
    DESCRIPTION,
    check_claimable,
    claim_folder,
    log_progress,
    make_once,
    marker_of,
    read_json,
    write_atomically,
)
from .render import render_scene
from .scene import (
    SceneObject,
    ShapeClass,
    ShapesVariant,
    polygon_area,
    sample_scene,
    visible_polygons,
)

logger = logging.getLogger(__name__)

VERSION = 1  # raise it with any change to what is drawn: data on disk is then made anew
OUTLINES = ("circle", "square", "triangle")

SHAPES_VARIANTS = {
    # The outline alone is the class.
    "shapes": ShapesVariant(
        name="shapes",
        image_size=192,
        classes=tuple(ShapeClass(outline, outline, "plain") for outline in OUTLINES),
        objects=(1, 4),
        sides=(24, 80),
        log_uniform=False,
        clutter=(0, 0),
    ),
    # Each outline comes with either texture, each texture with any outline.
    "shapes_hard": ShapesVariant(
        name="shapes_hard",
        image_size=320,
        classes=tuple(
            ShapeClass(f"{texture} {outline}", outline, texture)
            for texture in ("striped", "dotted")
            for outline in OUTLINES
        ),
        objects=(1, 12),
        sides=(12, 200),
        log_uniform=True,
        clutter=(4, 16),
    ),
}


@dataclass(frozen=True)
class ShapesSplit:
    """A registered part of a variant."""

    variant: str
    split: str
    num_images: int
    seed: int


SHAPES_SPLITS = {
    "shapes_train": ShapesSplit("shapes", "train", 2000, seed=1),
    "shapes_val": ShapesSplit("shapes", "val", 200, seed=2),
    # More images, for differences that 200 do not settle.
    "shapes_test": ShapesSplit("shapes", "test", 500, seed=3),
    "shapes_hard_train": ShapesSplit("shapes_hard", "train", 4000, seed=1),
    "shapes_hard_val": ShapesSplit("shapes_hard", "val", 500, seed=2),
}


def register_objects(root: str) -> None:
    """
    Register ``SHAPES_SPLITS`` with Detectron2, each to be made under ``root`` when first asked for.

    Their metadata is complete at once; nothing is written here.
    """
    for name, part in SHAPES_SPLITS.items():
        json_file, image_root = _paths(root, part.variant, part.split)
        register_coco(
            name,
            json_file,
            image_root,
            generate=functools.partial(ensure_shapes, name, root),
            thing_classes=[c.name for c in SHAPES_VARIANTS[part.variant].classes],
        )


def ensure_shapes(name: str, root: str) -> str:
    """Make one of ``SHAPES_SPLITS`` unless it is there already; returns its JSON file's path."""
    part = SHAPES_SPLITS[name]
    variant = SHAPES_VARIANTS[part.variant]
    return generate_shapes(variant, root, part.split, part.num_images, part.seed)


def generate_shapes(
    variant: ShapesVariant, root: str, split: str, num_images: int, seed: int
) -> str:
    """
    Write ``num_images`` images and their annotations, unless they are there already.

    An image is a function of (variant, seed, index) alone. A run that was killed is continued;
    processes that ask at the same time wait for the first; what another version, variant or seed
    has left in this place is replaced.

    Returns:
        path of the COCO JSON, ``<root>/<variant>/annotations/instances_<split>.json``. The images
        are ``<root>/<variant>/<split>/000001.jpg`` and so on.

    Raises:
        DatasetError: if other files are in that place, or it cannot be written.
    """
    json_file, image_root = _paths(root, variant.name, split)
    source = {
        "description": DESCRIPTION,
        "variant": variant.name,
        "parameters": f"{zlib.crc32(repr(variant).encode()):08x}",
        "seed": seed,
        "version": VERSION,
    }

    def make() -> None:
        os.makedirs(os.path.dirname(json_file), exist_ok=True)
        _claim(json_file, image_root, source)
        logger.info("Generating %d images in %s", num_images, image_root)
        data = _write_images(variant, image_root, num_images, seed)
        write_atomically(json_file, json.dumps({"info": source, **data}).encode())

    make_once(
        image_root,
        f"the generated data set {variant.name!r}",
        lambda: _is_complete(json_file, image_root, source, num_images),
        make,
    )
    return json_file


# Files -------------------------------------------------------------------------------------------


def _paths(root: str, variant: str, split: str) -> tuple[str, str]:
    folder = os.path.join(root, variant)
    json_file = os.path.join(folder, "annotations", f"instances_{split}.json")
    return json_file, os.path.join(folder, split)


def _image_name(index: int) -> str:
    return f"{index + 1:06d}.jpg"


def _is_complete(json_file: str, image_root: str, source: dict, num_images: int) -> bool:
    """The JSON is written last, so only images deleted since need to be looked for."""
    data = read_json(json_file)
    if not isinstance(data, dict) or data.get("info") != source:
        return False
    present = set(os.listdir(image_root)) if os.path.isdir(image_root) else set()
    return len(data["images"]) == num_images and all(
        image["file_name"] in present for image in data["images"]
    )


def _claim(json_file: str, image_root: str, source: dict) -> None:
    """See :func:`claim_folder`; the JSON file goes too, until all images are there."""
    if not os.path.exists(marker_of(image_root)):
        check_claimable(json_file)
    claim_folder(image_root, source)
    if os.path.exists(json_file):
        os.remove(json_file)


# Images ------------------------------------------------------------------------------------------


def _write_images(variant: ShapesVariant, image_root: str, num_images: int, seed: int) -> dict:
    """Write the images that are not there yet; returns all of them as COCO's three lists."""
    images, annotations = [], []
    make = functools.partial(_make_image, variant, image_root, seed)
    for image, objects in log_progress(map_images(make, num_images), num_images):
        images.append(image)
        for item in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": image["id"], **item})
    categories = [{"id": i, "name": c.name} for i, c in enumerate(variant.classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def map_images(make: Callable[[int], Any], num_images: int) -> Iterator[Any]:
    """``make(index)`` for every image, in order, on all cores if there are many."""
    num_workers = min(_num_cpus(), num_images // 32)
    if num_workers < 2:
        yield from map(make, range(num_images))
        return
    # Forking spares each worker the import of torch. Elsewhere than on Linux it is not safe.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    with context.Pool(num_workers) as pool:
        yield from pool.imap(make, range(num_images), chunksize=8)


def _num_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def scene_of(variant: ShapesVariant, seed: int, index: int) -> list[SceneObject]:
    """The objects of image ``index``, from 0, in the order of its annotations."""
    return sample_scene(variant, image_generator(variant, seed, index, 0))


def image_generator(
    variant: ShapesVariant, seed: int, index: int, stream: int
) -> np.random.Generator:
    """The random stream of an image: 0 for what is in it, 1 for how it looks."""
    return np.random.default_rng([zlib.crc32(variant.name.encode()), seed, index, stream])


def _make_image(
    variant: ShapesVariant, image_root: str, seed: int, index: int
) -> tuple[dict, list[dict]]:
    """Write one image unless it is there; returns its COCO records, annotations without ids."""
    scene = scene_of(variant, seed, index)
    path = os.path.join(image_root, _image_name(index))
    write_image(variant, scene, seed, index, path)
    size = variant.image_size
    image = {"id": index + 1, "file_name": _image_name(index), "width": size, "height": size}
    return image, [_annotation(item) for item in scene]


def write_image(
    variant: ShapesVariant, scene: list[SceneObject], seed: int, index: int, path: str
) -> None:
    """Draw one image into a JPEG file unless it is there."""
    if os.path.exists(path):
        return
    pixels = render_scene(variant, scene, image_generator(variant, seed, index, 1))
    # At this quality JPEG alters less than the noise in the picture, and reads and writes faster
    # than PNG.
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="JPEG", quality=95, subsampling=0)
    write_atomically(path, content.getvalue())


def _annotation(item: SceneObject) -> dict:
    polygons = visible_polygons(item.visible)
    corners = np.concatenate(polygons)
    left_top, right_bottom = corners.min(axis=0), corners.max(axis=0)
    return {
        "category_id": item.category + 1,
        "bbox": np.round(np.concatenate([left_top, right_bottom - left_top]), 2).tolist(),
        "area": round(sum(map(polygon_area, polygons)), 2),
        "iscrowd": 0,
        "segmentation": [points.reshape(-1).tolist() for points in polygons],
    }
