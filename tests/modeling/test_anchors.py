"""Anchors that are made on their device: Detectron2's, to the bit."""

import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

from mutualnet_det.modeling import DeviceAnchorGenerator


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_they_are_detectron2s(offset):
    options = dict(
        sizes=[[12, 17.3], [40]], aspect_ratios=[0.5, 1.0, 2.0], strides=[8, 15], offset=offset
    )
    levels = [torch.zeros(2, 1, 13, 21), torch.zeros(2, 1, 7, 1)]
    expected = DefaultAnchorGenerator(**options)(levels)
    for boxes, others in zip(DeviceAnchorGenerator(**options)(levels), expected, strict=True):
        assert boxes.tensor.dtype == others.tensor.dtype
        torch.testing.assert_close(boxes.tensor, others.tensor, rtol=0, atol=0)


def test_they_are_made_where_they_are_used():
    generator = DeviceAnchorGenerator(sizes=[[8]], aspect_ratios=[1.0], strides=[4]).to("meta")
    (boxes,) = generator([torch.zeros(1, 1, 3, 5, device="meta")])
    assert boxes.tensor.is_meta and boxes.tensor.shape == (15, 4)
