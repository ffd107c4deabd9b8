"""A generated data set for classification: one object per image, a folder per class."""

from __future__ import annotations

import functools
import json
import logging
import os
import zlib

from ..classification import register_image_folder
from .making import (
    DESCRIPTION,
    claim_folder,
    log_progress,
    make_once,
    read_json,
    write_atomically,
)
from .objects import OUTLINES, map_images, scene_of, write_image
from .scene import ShapeClass, ShapesVariant

logger = logging.getLogger(__name__)

VERSION = 1  # raise it with any change to what is drawn: data on disk is then made anew

# Neither the outline nor the texture alone tells a class.
VARIANT = ShapesVariant(
    name="shapes_classes",
    image_size=96,
    classes=tuple(
        ShapeClass(f"{texture}_{outline}", outline, texture)
        for texture in ("plain", "striped", "dotted")
        for outline in OUTLINES
    ),
    objects=(1, 1),
    sides=(44, 66),
    log_uniform=False,
    clutter=(0, 3),
)
# Number of images and seed of each split.
SPLITS = {"train": (6000, 1), "val": (900, 2)}


def register_classes(root: str) -> None:
    """Register ``shapes_classes_train`` and ``_val``, to be made when first asked for."""
    for split, (num_images, seed) in SPLITS.items():
        folder = os.path.join(root, VARIANT.name, split)
        register_image_folder(
            f"{VARIANT.name}_{split}",
            folder,
            generate=functools.partial(generate_classes, VARIANT, folder, num_images, seed),
        )


def generate_classes(variant: ShapesVariant, folder: str, num_images: int, seed: int) -> str:
    """
    Write ``num_images`` images, unless they are there already; returns ``folder``.

    An image is a function of (variant, seed, index) alone. A run that was killed is continued, and
    what another version or seed has left in this place is replaced.

    Raises:
        DatasetError: if other files are in that place, or it cannot be written.
    """
    source = {
        "description": DESCRIPTION,
        "parameters": f"{zlib.crc32(repr(variant).encode()):08x}",
        "num_images": num_images,
        "seed": seed,
        "version": VERSION,
    }
    done = os.path.join(folder, ".complete.json")

    def make() -> None:
        claim_folder(folder, source)
        for item in variant.classes:
            os.makedirs(os.path.join(folder, item.name), exist_ok=True)
        logger.info("Generating %d images in %s", num_images, folder)
        make_image = functools.partial(_make_image, variant, folder, seed)
        for _ in log_progress(map_images(make_image, num_images), num_images):
            pass
        write_atomically(done, json.dumps(source).encode())

    make_once(
        folder,
        f"the generated data set {variant.name!r}",
        lambda: read_json(done) == source,
        make,
    )
    return folder


def _make_image(variant: ShapesVariant, folder: str, seed: int, index: int) -> None:
    scene = scene_of(variant, seed, index)
    path = os.path.join(folder, variant.classes[scene[0].category].name, f"{index + 1:06d}.jpg")
    write_image(variant, scene, seed, index, path)
