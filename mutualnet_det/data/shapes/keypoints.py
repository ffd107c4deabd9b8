"""
Keypoints of the generated shapes data sets, in COCO files beside those of the instances.

Squares have no first corner and circles have none at all, so keypoints are named by where they lie
in the image: an outline's centre, and its topmost, rightmost, bottommost and leftmost points.
"""

from __future__ import annotations

import functools
import json
import logging
import os

import numpy as np
import shapely

from ..coco import register_coco
from .making import check_claimable, make_once, read_json, source_of, write_atomically
from .objects import SHAPES_SPLITS, SHAPES_VARIANTS, ensure_shapes, scene_of
from .scene import SceneObject, ShapesVariant

logger = logging.getLogger(__name__)

VERSION = 1  # raise it with any change to the keypoints: files on disk are then made anew
KEYPOINT_NAMES = ("center", "top", "right", "bottom", "left")
KEYPOINT_FLIP_MAP = (("left", "right"),)
# COCO's constants of the object keypoint similarity, for TEST.KEYPOINT_OKS_SIGMAS: between those of
# an eye (0.025) and a hip (0.107) of a person.
KEYPOINT_OKS_SIGMAS = (0.05,) * len(KEYPOINT_NAMES)
# COCO's visibility flags.
HIDDEN, VISIBLE = 1, 2
TOLERANCE = 0.25  # px between a keypoint and what is seen of its object for it to be visible


def register_keypoints(root: str) -> None:
    """
    Register a twin with keypoints of each of ``SHAPES_SPLITS``, such as ``shapes_keypoints_train``,
    with the same images; it is made under ``root`` when first asked for.
    """
    for name, part in SHAPES_SPLITS.items():
        folder = os.path.join(root, part.variant)
        register_coco(
            f"{part.variant}_keypoints_{part.split}",
            os.path.join(folder, "annotations", f"keypoints_{part.split}.json"),
            os.path.join(folder, part.split),
            generate=functools.partial(ensure_shapes_keypoints, name, root),
            thing_classes=[c.name for c in SHAPES_VARIANTS[part.variant].classes],
            keypoint_names=list(KEYPOINT_NAMES),
            keypoint_flip_map=list(KEYPOINT_FLIP_MAP),
        )


def ensure_shapes_keypoints(name: str, root: str) -> str:
    """Make the twin of one of ``SHAPES_SPLITS`` unless it is there; returns the JSON's path."""
    part = SHAPES_SPLITS[name]
    return generate_keypoints(SHAPES_VARIANTS[part.variant], ensure_shapes(name, root), part.seed)


def generate_keypoints(variant: ShapesVariant, json_file: str, seed: int) -> str:
    """
    Write the annotations of a generated data set once more, with keypoints, unless they are there.

    Args:
        json_file: ``instances_<split>.json`` of :func:`mutualnet_det.data.shapes.generate_shapes`,
            for the same variant and seed.

    Returns:
        path of the COCO JSON, ``keypoints_<split>.json`` in the same folder. Annotations have
        "keypoints", x, y and visibility of each of ``KEYPOINT_NAMES``, beside all they had.

    Raises:
        DatasetError: if there is another file in that place, or it cannot be written.
    """
    folder, name = os.path.split(json_file)
    path = os.path.join(folder, name.replace("instances", "keypoints"))
    data = read_json(json_file)
    source = {**data["info"], "keypoints": VERSION}

    def make() -> None:
        check_claimable(path)
        logger.info("Finding the keypoints of %d images for %s", len(data["images"]), path)
        annotations = iter(data["annotations"])
        for index in range(len(data["images"])):
            for item in scene_of(variant, seed, index):
                keypoints = keypoints_of(variant, item)
                next(annotations).update(keypoints=keypoints, num_keypoints=len(KEYPOINT_NAMES))
        for category in data["categories"]:
            category.update(keypoints=KEYPOINT_NAMES, skeleton=[])
        write_atomically(path, json.dumps({**data, "info": source}).encode())

    make_once(path, "keypoints", lambda: source_of(path) == source, make)
    return path


def keypoints_of(variant: ShapesVariant, item: SceneObject) -> list[float]:
    """
    The keypoints of one object as COCO has them: x, y and visibility of each, in one list.

    Coordinates are px with two decimals, and those of a pixel's centre are integers: half a px less
    than in :class:`SceneObject`. A keypoint that another object covers is labelled and not visible.
    """
    center = np.array(item.outline.centroid.coords[0])
    if variant.classes[item.category].outline == "circle":
        # Not a vertex of the polygon that stands for it: they turn with the object.
        points = center + item.side / 2 * np.array([[0, -1], [1, 0], [0, 1], [-1, 0]])
    else:
        corners = shapely.get_coordinates(item.outline.exterior)
        x, y = corners.T
        points = corners[[y.argmin(), x.argmax(), y.argmax(), x.argmin()]]
    points = np.clip([center, *points], 0, variant.image_size)
    distances = shapely.distance(item.visible, shapely.points(points))
    flags = np.where(distances <= TOLERANCE, VISIBLE, HIDDEN)
    return [
        value
        for (x, y), flag in zip(np.round(points - 0.5, 2).tolist(), flags.tolist(), strict=True)
        for value in (x, y, flag)
    ]
