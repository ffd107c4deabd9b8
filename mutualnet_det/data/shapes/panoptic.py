"""
The generated shapes data sets for panoptic segmentation: objects with their masks, and the
background as the one kind of stuff.
"""

from __future__ import annotations

import functools
import os

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from .objects import SHAPES_SPLITS, SHAPES_VARIANTS, ensure_shapes
from .semantic import BACKGROUND, IGNORE_LABEL, semantic_records

# Detectron2's name of class 0 of a panoptic network's semantic head: whatever is an object.
THINGS = "things"


def register_panoptic(root: str) -> None:
    """
    Register a panoptic twin of each of ``SHAPES_SPLITS``, such as ``shapes_panoptic_train``, with
    the same images; it is made under ``root`` when first asked for.

    Records are as in Detectron2's ``coco_2017_train_panoptic_separated``: annotations, and
    "sem_seg_file_name" with 0 for objects and 1 for the background.
    """
    for name, part in SHAPES_SPLITS.items():
        twin = f"{part.variant}_panoptic_{part.split}"
        if twin in DatasetCatalog:
            continue
        folder = os.path.join(root, part.variant)
        DatasetCatalog.register(twin, functools.partial(_load, twin, name, root))
        MetadataCatalog.get(twin).set(
            json_file=os.path.join(folder, "annotations", f"instances_{part.split}.json"),
            image_root=os.path.join(folder, part.split),
            sem_seg_root=os.path.join(folder, f"stuff_{part.split}"),
            evaluator_type="coco_panoptic_seg",
            thing_classes=[c.name for c in SHAPES_VARIANTS[part.variant].classes],
            stuff_classes=[THINGS, BACKGROUND],
            ignore_label=IGNORE_LABEL,
        )


def _load(twin: str, name: str, root: str) -> list[dict]:
    ensure_shapes(name, root)
    metadata = MetadataCatalog.get(twin)
    return panoptic_records(twin, metadata.json_file, metadata.image_root, metadata.sem_seg_root)


def panoptic_records(name: str, json_file: str, image_root: str, folder: str) -> list[dict]:
    """
    The images of a generated COCO JSON file with their annotations and semantic masks.

    Args:
        name: of the data set, whose metadata is completed.
        json_file, image_root: what :func:`mutualnet_det.data.shapes.generate_shapes` has written.
        folder: of the masks, made if they are not there.
    """
    masks = {
        record["image_id"]: record["sem_seg_file_name"]
        for record in semantic_records(json_file, image_root, folder, stuff_only=True)
    }
    return [
        {**record, "sem_seg_file_name": masks[record["image_id"]]}
        for record in load_coco_json(json_file, image_root, name)
    ]
