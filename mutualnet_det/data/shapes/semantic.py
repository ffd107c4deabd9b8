"""
Semantic masks of the generated shapes data sets: one PNG per image, drawn from its polygons.

A pixel holds 0 for the background, and 1 and up for the classes in the order of the variant.
"""

from __future__ import annotations

import functools
import io
import logging
import os

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ..masks import decoded
from .making import claim_folder, log_progress, make_once, marker_of, read_json, write_atomically
from .objects import SHAPES_SPLITS, SHAPES_VARIANTS, ensure_shapes

logger = logging.getLogger(__name__)

VERSION = 1  # raise it with any change to what is drawn: masks on disk are then made anew
BACKGROUND = "background"
IGNORE_LABEL = 255  # of pixels without a class: here, none


def register_semantic(root: str) -> None:
    """
    Register a semantic twin of each of ``SHAPES_SPLITS``, such as ``shapes_sem_train``, with the
    same images; it is made under ``root`` when first asked for.
    """
    for name, part in SHAPES_SPLITS.items():
        twin = f"{part.variant}_sem_{part.split}"
        if twin in DatasetCatalog:
            continue
        DatasetCatalog.register(twin, functools.partial(_load, name, root))
        MetadataCatalog.get(twin).set(
            image_root=os.path.join(root, part.variant, part.split),
            sem_seg_root=os.path.join(root, part.variant, f"semantic_{part.split}"),
            evaluator_type="sem_seg",
            stuff_classes=[BACKGROUND, *(c.name for c in SHAPES_VARIANTS[part.variant].classes)],
            ignore_label=IGNORE_LABEL,
        )


def _load(name: str, root: str) -> list[dict]:
    part = SHAPES_SPLITS[name]
    folder = os.path.join(root, part.variant)
    return semantic_records(
        ensure_shapes(name, root),
        os.path.join(folder, part.split),
        os.path.join(folder, f"semantic_{part.split}"),
    )


def semantic_records(
    json_file: str, image_root: str, folder: str, *, stuff_only: bool = False
) -> list[dict]:
    """
    The images of a generated COCO JSON file with their semantic masks, made if they are not there.

    Args:
        json_file, folder, stuff_only: see :func:`generate_semantic`.
        image_root: folder of the images.

    Returns:
        records in Detectron2's format: file_name, sem_seg_file_name, height, width and image_id.
    """
    generate_semantic(json_file, folder, stuff_only=stuff_only)
    return [
        {
            "file_name": os.path.join(image_root, image["file_name"]),
            "sem_seg_file_name": os.path.join(folder, _mask_name(image)),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
        }
        for image in read_json(json_file)["images"]
    ]


def generate_semantic(json_file: str, folder: str, *, stuff_only: bool = False) -> str:
    """
    Write the semantic mask of every image in a generated COCO JSON file, unless it is there.

    A run that was killed is continued, and masks of other annotations are replaced.

    Args:
        json_file: from :func:`mutualnet_det.data.shapes.generate_shapes`.
        folder: of the masks, 000001.png and so on.
        stuff_only: 0 for every object, whatever its class, and 1 for the background, as the
            semantic head of a panoptic network learns them.

    Returns:
        ``folder``.

    Raises:
        DatasetError: if other files are in that place, or it cannot be written.
    """
    data = read_json(json_file)
    source = {**data["info"], "masks": VERSION, **({"stuff_only": True} if stuff_only else {})}

    def make() -> None:
        claim_folder(folder, source)
        missing = _missing(data["images"], folder, source)
        logger.info("Drawing %d semantic masks in %s", len(missing), folder)
        objects: dict[int, list[dict]] = {}
        for annotation in data["annotations"]:
            objects.setdefault(annotation["image_id"], []).append(annotation)
        for image in log_progress(iter(missing), len(missing)):
            content = io.BytesIO()
            mask = semantic_mask(image, objects.get(image["id"], []))
            if stuff_only:
                mask = (mask == 0).astype(np.uint8)
            Image.fromarray(mask).save(content, format="PNG")
            write_atomically(os.path.join(folder, _mask_name(image)), content.getvalue())

    make_once(folder, "semantic masks", lambda: not _missing(data["images"], folder, source), make)
    return folder


def semantic_mask(image: dict, annotations: list[dict]) -> np.ndarray:
    """
    The class of each pixel (H, W) in uint8: 0, or the category id of the object seen there.

    Args:
        image, annotations: COCO's records of one image, the objects from the bottom to the top.
    """
    height, width = image["height"], image["width"]
    mask = np.zeros((height, width), np.uint8)
    for annotation in annotations:
        mask[decoded(annotation["segmentation"], height, width)] = annotation["category_id"]
    return mask


def _mask_name(image: dict) -> str:
    return f"{os.path.splitext(image['file_name'])[0]}.png"


def _missing(images: list[dict], folder: str, source: dict) -> list[dict]:
    if read_json(marker_of(folder)) != source:
        return images
    present = set(os.listdir(folder))
    return [image for image in images if _mask_name(image) not in present]
