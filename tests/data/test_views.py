"""Resolution views of a training batch."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes

from mutualnet_det.data.views import (
    resize_image,
    resized_shape,
    scale_boxes,
    scale_ratio,
    view_at,
)

SIZES = [(480, 640), (640, 480), (333, 1000), (1000, 333), (427, 640), (97, 101), (64, 64)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resolution", [600, 480, 360, 240, 64])
def test_shape_is_detectron2s(size, resolution):
    transform = T.ResizeShortestEdge(resolution, 1000).get_transform(np.zeros((*size, 3)))
    assert resized_shape(*size, resolution, 1000) == (transform.new_h, transform.new_w)


def test_long_side_is_capped():
    assert resized_shape(300, 1200, 600, 1000) == (250, 1000)


@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1)])
def test_the_short_side_is_never_0(size):
    expected = (1, 1000) if size[0] == 1 else (1000, 1)
    assert resized_shape(*size, 600, 1000) == expected


@pytest.mark.parametrize("size", [(400, 1201), (500, 1500), (375, 500), (1333, 401)])
def test_a_resized_image_keeps_its_size(size):
    """The full network's view of an image that the loader has resized is the image itself."""
    once = resized_shape(*size, 600, 1000)
    assert resized_shape(*once, 600, 1000) == once


def test_view_of_the_same_size_is_the_same_image(training_batch):
    batch = training_batch(sizes=((64, 96), (80, 64)))
    for item, seen in zip(batch, view_at(batch, 64, 128), strict=True):
        assert seen["image"].dtype == torch.float32
        assert torch.equal(seen["image"], item["image"].float())
        assert torch.equal(seen["instances"].gt_boxes.tensor, item["instances"].gt_boxes.tensor)


def test_view_scales_images_and_boxes_and_keeps_the_rest(training_batch):
    batch = training_batch(sizes=((64, 101), (80, 64)), objects=(2, 0))
    before = [item["instances"].gt_boxes.tensor.clone() for item in batch]
    view = view_at(batch, 48, 70)
    assert [tuple(item["image"].shape) for item in view] == [(3, 44, 70), (3, 60, 48)]
    for item, seen, boxes in zip(batch, view, before, strict=True):
        (height, width), shape = item["image"].shape[-2:], seen["image"].shape[-2:]
        assert seen["instances"].image_size == tuple(shape)
        ratio = torch.tensor([shape[1] / width, shape[0] / height] * 2)
        torch.testing.assert_close(seen["instances"].gt_boxes.tensor, boxes * ratio)
        assert seen["instances"].gt_masks is item["instances"].gt_masks
        assert seen["instances"].gt_classes is item["instances"].gt_classes
        # The source serves the next pass too.
        assert item["image"].dtype == torch.uint8
        assert torch.equal(item["instances"].gt_boxes.tensor, boxes)


def test_resizing_is_antialiased():
    stripes = torch.zeros(1, 32, 32)
    stripes[..., 1::4] = stripes[..., 2::4] = 255
    # Without antialiasing the two columns in the middle of four alone would count: 255.
    assert (resize_image(stripes, (8, 8)) - 127.5).abs().max() < 32


def test_resizing_puts_an_object_where_its_box_is():
    image = torch.zeros(3, 80, 120)
    box = Boxes(torch.tensor([[20.0, 10.0, 70.0, 50.0]]))
    image[:, 10:50, 20:70] = 255
    small = resize_image(image, (33, 61))
    x0, y0, x1, y1 = scale_boxes(box, scale_ratio((80, 120), (33, 61))).tensor[0].tolist()
    rows, columns = (small[0] > 127).nonzero().T
    assert abs(rows.min() - y0) <= 1 and abs(rows.max() + 1 - y1) <= 1
    assert abs(columns.min() - x0) <= 1 and abs(columns.max() + 1 - x1) <= 1


def test_ratio_is_of_x_and_then_of_y():
    assert scale_ratio((100, 50), (50, 75)) == (1.5, 0.5)
    boxes = Boxes(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert scale_boxes(boxes, (1.5, 0.5)).tensor.tolist() == [[1.5, 1.0, 4.5, 2.0]]
    assert boxes.tensor.tolist() == [[1.0, 2.0, 3.0, 4.0]]


def test_images_of_one_size_are_resized_as_each_alone(training_batch):
    batch = training_batch(sizes=((64, 96), (64, 96)))
    together = view_at(batch, 48, 128)
    for item, expected in zip(together, batch, strict=True):
        (alone,) = view_at([expected], 48, 128)
        assert torch.equal(item["image"], alone["image"])
        assert torch.equal(item["instances"].gt_boxes.tensor, alone["instances"].gt_boxes.tensor)
