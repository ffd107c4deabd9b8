"""Resolution views: one augmented image, seen at several resolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import Boxes, Instances
from torch import Tensor


def resized_shape(height: int, width: int, resolution: int, max_size: int) -> tuple[int, int]:
    """
    Height and width of an image whose short side is resized to ``resolution``, in pixels.

    Where the long side would exceed ``max_size``, the short side becomes smaller, as in Detectron2,
    but not 0, as it there does for an image a few hundred times as long as wide.
    """
    shape = ResizeShortestEdge.get_output_shape(height, width, resolution, max_size)
    return max(shape[0], 1), max(shape[1], 1)


def resize_image(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """An image (C, H, W) resized bilinearly with antialiasing, on its own device, as float."""
    return _resize(image[None], shape)[0]


def _resize(images: Tensor, shape: tuple[int, int]) -> Tensor:
    """Images (N, C, H, W) of one size, as :func:`resize_image` resizes each."""
    images = images.float()
    if tuple(images.shape[-2:]) == tuple(shape):
        return images
    return F.interpolate(images, size=shape, mode="bilinear", align_corners=False, antialias=True)


def scale_boxes(boxes: Boxes, ratio: tuple[float, float]) -> Boxes:
    """Boxes (N, 4) scaled by ``(x, y)``; the argument stays as it is."""
    scaled = boxes.tensor.clone()
    for axis, factor in enumerate(ratio):
        scaled[:, axis::2] *= factor  # a number, not a tensor that would have to be copied there
    return Boxes(scaled)


def scale_ratio(source: tuple[int, int], target: tuple[int, int]) -> tuple[float, float]:
    """
    Factors by which x and y stretch between two sizes (height, width) of one image.

    Rounding and the cap of the long side make them differ.
    """
    return target[1] / source[1], target[0] / source[0]


def view_at(batched_inputs: list[dict], resolution: int, max_size: int) -> list[dict]:
    """
    The same training batch at another resolution.

    Args:
        batched_inputs: training inputs: "image" (C, H, W) each, and with a detector "instances".
        resolution: short side in pixels; the long side is at most ``max_size``.

    Returns:
        list[dict]: "image" (C, H', W'), "source_size" (H, W) and "instances" with scaled
        ``gt_boxes``. Other ground truth, masks included, keeps the scale of the source: ROI targets
        do not depend on it. Whatever else an input holds stays as it is.
    """
    view = []
    images = [item["image"] for item in batched_inputs]
    shapes = [resized_shape(*image.shape[-2:], resolution, max_size) for image in images]
    with torch.no_grad():
        if len({image.shape for image in images}) == 1:
            # A thousand crops of classification in one call.
            resized = list(_resize(torch.stack(images), shapes[0]))
        else:
            resized = [resize_image(*each) for each in zip(images, shapes, strict=True)]
    for item, image, shape in zip(batched_inputs, resized, shapes, strict=True):
        source = tuple(item["image"].shape[-2:])
        viewed = {**item, "image": image, "source_size": source}
        if "instances" in item:
            instances = Instances(shape, **item["instances"].get_fields())
            instances.gt_boxes = scale_boxes(instances.gt_boxes, scale_ratio(source, shape))
            viewed["instances"] = instances
        view.append(viewed)
    return view
