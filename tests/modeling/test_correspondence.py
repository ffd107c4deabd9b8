"""Which of the teacher's levels, cells and anchors correspond to a student's."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes, pairwise_iou

from mutualnet_det.modeling import correspondence
from mutualnet_det.modeling.correspondence import (
    averaged_over_cells,
    corresponding_anchors,
    corresponding_level,
)

# Of R-CNN's pyramid, p2 to p6.
STRIDES = [4, 8, 16, 32, 64]


def levels(*ratio):
    """The teacher's level for each of the student's, as names; None for none."""
    indices = [corresponding_level(stride, ratio, STRIDES) for stride in STRIDES]
    return [None if level is None else f"p{level + 2}" for level in indices]


@pytest.mark.parametrize(
    ("resolution", "full", "expected"),
    [
        (600, 600, ["p2", "p3", "p4", "p5", "p6"]),
        (480, 600, ["p2", "p3", "p4", "p5", "p6"]),
        (430, 600, ["p2", "p3", "p4", "p5", "p6"]),  # ratios below sqrt(2), and
        (420, 600, ["p3", "p4", "p5", "p6", None]),  # above it
        (360, 600, ["p3", "p4", "p5", "p6", None]),
        (300, 600, ["p3", "p4", "p5", "p6", None]),
        (240, 600, ["p3", "p4", "p5", "p6", None]),
        (150, 600, ["p4", "p5", "p6", None, None]),
        (64, 160, ["p3", "p4", "p5", "p6", None]),
    ],
)
def test_levels_correspond_by_size(resolution, full, expected):
    assert levels(full / resolution, full / resolution) == expected


def test_every_ratio_shifts_the_pyramid_by_whole_levels():
    """No ratio falls between two levels, whatever rounding does to x and y."""
    for resolution in range(40, 601):
        for size in (resolution - 1, resolution, resolution + 1):
            shifted = levels(600 / resolution, 600 / size)
            shift = 5 - len([level for level in shifted if level])
            assert shifted == [f"p{k + shift}" for k in range(2, 7 - shift)] + [None] * shift


def test_too_small_an_image_has_no_counterpart():
    assert levels(40.0, 40.0) == [None] * 5
    assert levels(4.0, 1.0) == [None] * 5  # nothing like it is seen at another shape


@pytest.mark.parametrize(
    ("size", "stride", "full_size", "full_stride"),
    [
        ((48, 72), 4, (64, 96), 4),
        ((31, 45), 4, (64, 93), 4),
        ((50, 37), 4, (50, 37), 4),
        ((96, 40), 4, (60, 25), 4),
        ((30, 45), 8, (64, 93), 16),
    ],
)
def test_area_weights_are_those_of_a_fine_grid(size, stride, full_size, full_stride):
    for target, source in zip(size, full_size, strict=True):
        # Both grids, looked up at many places of the image.
        places = (torch.arange(200_000) + 0.5) / 200_000
        rows, columns = (places * target / stride).long(), (places * source / full_stride).long()
        expected = torch.zeros(math.ceil(target / stride), math.ceil(source / full_stride)).double()
        expected.index_put_((rows, columns), torch.ones(200_000).double(), accumulate=True)
        expected /= expected.sum(dim=1, keepdim=True)
        actual = correspondence._area_weights(
            target, stride, source, full_stride, torch.device("cpu")
        )
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-3)


def test_values_are_averaged_over_the_area_of_each_cell():
    torch.manual_seed(0)
    values = torch.randn(3, 9, 13)  # one row and one column of padding
    averaged = averaged_over_cells(values, (64, 96), 8, (32, 48), 8)
    torch.testing.assert_close(averaged, F.avg_pool2d(values[:, :8, :12], 2))


@pytest.mark.parametrize(
    ("size", "stride", "full_size", "full_stride"),
    [((50, 37), 4, (50, 37), 4), ((64, 96), 8, (128, 192), 16), ((21, 33), 8, (42, 66), 16)],
)
def test_equal_grids_keep_their_values(size, stride, full_size, full_stride):
    torch.manual_seed(0)
    height, width = (math.ceil(side / stride) for side in size)
    values = torch.randn(3, height + 1, width + 2)
    averaged = averaged_over_cells(values, full_size, full_stride, size, stride)
    assert torch.equal(averaged, values[:, :height, :width])


# Anchors -----------------------------------------------------------------------------------------

# Sizes in px of the full network's image and of the student's.
SIZES = [
    ((300, 400), (300, 400)),
    ((300, 400), (150, 200)),
    ((300, 400), (240, 320)),
    ((250, 451), (150, 271)),
    ((320, 211), (182, 120)),
]


@pytest.fixture(scope="module", params=[0.0, 0.5])
def coco_anchors(request):
    """RetinaNet's anchors on COCO, without the level and the step that only take time."""
    sizes = [[size, size * 2 ** (1 / 3)] for size in (64.0, 128.0, 256.0, 512.0)]
    return DefaultAnchorGenerator(
        sizes=sizes, aspect_ratios=[[0.5, 1.0]], strides=[16, 32, 64, 128], offset=request.param
    )


def centres_inside(anchors, size):
    # Centres of rounded corners are off by less than this.
    x, y = (anchors.get_centers() + 0.01).unbind(1)
    return (x < size[1]) & (y < size[0])


@pytest.mark.parametrize(("full_size", "size"), SIZES)
def test_each_anchor_finds_the_one_it_overlaps_most(coco_anchors, make_anchors, full_size, size):
    full_grids, full = make_anchors(coco_anchors, full_size)
    grids, student = make_anchors(coco_anchors, size)
    indices, exists = corresponding_anchors(coco_anchors, size, grids, full_size, full_grids)
    student, full = Boxes.cat(student), Boxes.cat(full)
    inside = centres_inside(student, size)
    student.scale(full_size[1] / size[1], full_size[0] / size[0])
    overlaps = pairwise_iou(student, full)
    overlaps[:, ~centres_inside(full, full_size)] = -1
    best = overlaps.max(dim=1).values
    assert torch.equal(exists, inside & (best >= correspondence.MIN_IOU))
    assert exists.sum() > inside.sum() / 2
    iou = overlaps[torch.arange(len(indices)), indices][exists]
    torch.testing.assert_close(iou, best[exists], rtol=0, atol=1e-5)
    if size == full_size:
        assert exists.sum() == inside.sum()
        assert torch.equal(indices[exists], torch.arange(len(indices))[exists])


def test_at_half_the_resolution_anchors_are_shifted_by_a_level(coco_anchors, make_anchors):
    (full_grids, full), (grids, student) = (
        make_anchors(coco_anchors, size) for size in ((512, 768), (256, 384))
    )
    indices, exists = corresponding_anchors(coco_anchors, (256, 384), grids, (512, 768), full_grids)
    first = slice(0, len(student[0]))
    assert exists[first].all()
    assert torch.equal(indices[first], len(full[0]) + torch.arange(len(full[1])))
    # What is twice as large as the largest that the teacher has.
    assert not exists[-len(student[-1]) :].any()
