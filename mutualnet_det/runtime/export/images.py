"""The images that an export is compared with its source on."""

from __future__ import annotations

from detectron2.config import CfgNode
from torch import Tensor

from ...data.coco import load_records
from ...data.faults import DatasetError
from ...data.images import evaluation_view
from ...evenly import evenly
from ..images import rgb_pixels
from ..pretrained import Pretrained, max_pixels
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


def network_input(
    pretrained: Pretrained, file: str, resolution: int
) -> tuple[Tensor, tuple[int, int]]:
    """
    A model's view of an image file, (3, H, W) in uint8, and its height and width on disk.

    ImageError for a file that cannot be used.
    """
    cfg = pretrained.cfg
    pixels = rgb_pixels(file, max_pixels=max_pixels(cfg))
    if cfg.INPUT.FORMAT == "BGR":
        pixels = pixels[..., ::-1]
    return evaluation_view(cfg, pixels, resolution), pixels.shape[:2]
