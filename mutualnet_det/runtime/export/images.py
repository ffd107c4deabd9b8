"""The images that an export is compared with its source on."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import Tensor

from ...data.coco import DatasetError, load_records
from ...data.images import evaluation_view
from ...evenly import evenly
from ..images import rgb_pixels
from ..sources import is_image_name
from .errors import ExportError


def dataset_images(cfg: CfgNode, count: int) -> list[str]:
    """
    Files of the first set of ``DATASETS.TEST``, evenly over it; all if it has no more than
    ``count``.

    ExportError if they are not there.
    """
    if not cfg.DATASETS.TEST:
        raise ExportError("DATASETS.TEST of the model's config is empty: give --image-folder.")
    try:
        records = load_records(cfg, cfg.DATASETS.TEST[0])
    except DatasetError as error:
        raise ExportError(
            f"The export is compared with its source on images of DATASETS.TEST, and they cannot "
            f"be read: {error} Give --image-folder instead."
        ) from error
    return evenly([record["file_name"] for record in records], count)


def folder_images(folder: str, count: int) -> list[str]:
    """Image files in a folder, evenly over their names; ExportError if there are none."""
    files = []
    if Path(folder).is_dir():
        files = sorted(map(str, filter(is_image_name, Path(folder).iterdir())))
    if not files:
        raise ExportError(f"--image-folder {folder}: there are no images in it.")
    return evenly(files, count)


def class_names(cfg: CfgNode) -> list[str] | None:
    """The classes in the model's order, None where no data set here tells them."""
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        try:
            load_records(cfg, name)
        except DatasetError:
            continue
        return list(MetadataCatalog.get(name).thing_classes)
    return None


def network_input(cfg: CfgNode, file: str, resolution: int) -> tuple[Tensor, tuple[int, int]]:
    """What a model sees of an image file, (3, H, W) in uint8, and its height and width on disk."""
    pixels = rgb_pixels(file)
    if cfg.INPUT.FORMAT == "BGR":
        pixels = pixels[..., ::-1]
    return evaluation_view(cfg, pixels, resolution), pixels.shape[:2]
