"""Images of a data set as evaluation sees them, and calibration with it: read, checked, resized."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import check_image_size
from detectron2.data.transforms import ResizeTransform
from torch import Tensor

from ..family import Family, family
from .classification import evaluation_images, read_classification_image
from .faults import DatasetError
from .views import resized_shape


def read_record(record: dict, image_format: str) -> np.ndarray:
    """
    The image (H, W, 3) of a record of any data set, in uint8.

    Raises:
        DatasetError: naming the file, if it does not decode, has pixels of more than 8 bits, or is
            not of the size the record says.
    """
    try:
        image = read_classification_image(record, image_format)
        check_image_size(dict(record), image)  # a copy: it completes a record without a size
    except Exception as error:
        raise DatasetError(f"The image {record['file_name']} cannot be used: {error}") from error
    return image


def resize_shortest_edge(image: np.ndarray, resolution: int, max_size: int) -> Tensor:
    """
    An image (H, W, C) as Detectron2's test-time ResizeShortestEdge makes it, as (C, H', W').

    Args:
        resolution: short side, in px.
        max_size: the most that the long side may have; the short one becomes smaller for it.
    """
    shape = image.shape[:2]
    transform = ResizeTransform(*shape, *resized_shape(*shape, resolution, max_size))
    resized = transform.apply_image(image).transpose(2, 0, 1)
    return torch.as_tensor(np.ascontiguousarray(resized))


def _middle(cfg: CfgNode, image: np.ndarray, resolution: int) -> Tensor:
    (view,) = evaluation_images(cfg, [image], resolution)
    return view


def _whole(cfg: CfgNode, image: np.ndarray, resolution: int) -> Tensor:
    return resize_shortest_edge(image, resolution, cfg.INPUT.MAX_SIZE_TEST)


class View(NamedTuple):
    """
    A view of an image, as a network sees it.

    Attributes:
        make: of a config, an image (H, W, 3) and a resolution, the view (3, H', W').
        is_square: whether those of all images have one size.
        keys: of the config, that it depends on beside ``INPUT``.
    """

    make: Callable[[CfgNode, np.ndarray, int], Tensor]
    is_square: bool
    keys: tuple[str, ...] = ()


VIEWS = {
    Family.CLASSIFIER: View(
        _middle, True, ("MUTUALNET.RESOLUTIONS", "MUTUALNET.CLASSIFICATION.TEST_CROP")
    ),
    Family.SEMANTIC: View(_whole, False),
    Family.PANOPTIC: View(_whole, False),
    Family.RCNN: View(_whole, False),
    Family.DENSE: View(_whole, False),
}


def evaluation_view(cfg: CfgNode, image: np.ndarray, resolution: int) -> Tensor:
    """The model's view of an image (H, W, 3) at a resolution, as (3, H', W')."""
    return VIEWS[family(cfg)].make(cfg, image, resolution)
