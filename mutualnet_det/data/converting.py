"""Registered data sets in the formats of Pascal VOC and Cityscapes, as files in COCO's format."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict

from .faults import DatasetError

# By the name that Detectron2 gives to how a data set is scored.
CONVERTED = ("pascal_voc", "cityscapes_instance")


def is_converted(name: str) -> bool:
    """Tell whether a registered data set is used in COCO's format, and lies there in another."""
    return MetadataCatalog.get(name).get("evaluator_type") in CONVERTED


@functools.cache
def converted(name: str) -> str:
    """
    The path of a JSON file with a data set's records, for as long as this process runs.

    Images are numbered from 1; their ``file_name`` is the whole path.

    Raises:
        DatasetError: naming what is missing: a file of the data set, or a package that reads it.
    """
    try:
        content = convert_to_coco_dict(name)
    except ImportError as error:
        raise DatasetError(
            f"The data set {name!r} needs {error.name} to be read: pip install "
            '"mutualnet_det[cityscapes]".'
        ) from error
    except (OSError, ValueError, AssertionError) as error:
        raise DatasetError(
            f"The data set {name!r} cannot be read: {error}. Detectron2's own data sets lie in the "
            "folder that the environment variable DETECTRON2_DATASETS names."
        ) from error
    numbers = {image["id"]: number for number, image in enumerate(content["images"], start=1)}
    for image in content["images"]:
        image["id"] = numbers[image["id"]]
    for annotation in content["annotations"]:
        annotation["image_id"] = numbers[annotation["image_id"]]
    folder = Path(tempfile.mkdtemp(prefix="mutualnet_det_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)
