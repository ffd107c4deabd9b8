"""Anchors that are made on their device: Detectron2's, to the bit."""

import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator, RotatedAnchorGenerator

from mutualnet_det.modeling.anchors import anchors_of


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_they_are_detectron2s(offset):
    generator = DefaultAnchorGenerator(
        sizes=[[12, 17.3], [40]], aspect_ratios=[0.5, 1.0, 2.0], strides=[8, 15], offset=offset
    )
    levels = [torch.zeros(2, 1, 13, 21), torch.zeros(2, 1, 7, 1)]
    for boxes, others in zip(anchors_of(generator, levels), generator(levels), strict=True):
        assert boxes.tensor.dtype == others.tensor.dtype
        torch.testing.assert_close(boxes.tensor, others.tensor, rtol=0, atol=0)


def test_they_are_made_where_they_are_used():
    generator = DefaultAnchorGenerator(sizes=[[8]], aspect_ratios=[1.0], strides=[4]).to("meta")
    (boxes,) = anchors_of(generator, [torch.zeros(1, 1, 3, 5, device="meta")])
    assert boxes.tensor.is_meta and boxes.tensor.shape == (15, 4)


def test_other_generators_make_their_own():
    generator = RotatedAnchorGenerator(
        sizes=[[8]], aspect_ratios=[1.0], strides=[4], angles=[[0, 45]]
    )
    (boxes,) = anchors_of(generator, [torch.zeros(1, 1, 3, 5)])
    assert boxes.tensor.shape == (30, 5)
