"""What a sub-network's heads learn, against the formulas."""

import math

import numpy as np
import pytest
import torch
from detectron2.modeling.roi_heads.keypoint_head import keypoint_rcnn_loss
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_loss
from detectron2.modeling.roi_heads.roi_heads import select_proposals_with_visible_keypoints
from detectron2.structures import Boxes, Instances, Keypoints, PolygonMasks
from detectron2.utils.events import EventStorage

from mutualnet_det.modeling import distillation


def logits(*shape, seed=0):
    torch.manual_seed(seed)
    return torch.randn(shape, requires_grad=True)


NAMES = ["class", "box", "box, agnostic", "mask", "keypoint"]
VALID = torch.tensor([[True, False, True], [False, False, True]])


def losses(student, teacher):
    """Each distillation loss between two lots of predictions, by name."""
    classes = torch.tensor([0, 2, 3, 1, 3, 2])
    masks = torch.tensor([0, 2, 1, 2])
    return {
        "class": distillation.class_distillation(student[0], teacher[0], 2.0),
        "box": distillation.box_distillation(student[1], teacher[1], classes, 3),
        "box, agnostic": distillation.box_distillation(
            student[1][:, :4], teacher[1][:, :4], classes, 3
        ),
        "mask": distillation.mask_distillation(
            distillation.masks_of_classes(student[2], masks),
            distillation.masks_of_classes(teacher[2], masks),
        ),
        "keypoint": distillation.keypoint_distillation(student[3], teacher[3], VALID),
    }


def predictions(seed):
    return (
        logits(6, 4, seed=seed),
        logits(6, 12, seed=seed + 1),
        logits(4, 3, 28, 28, seed=seed + 2),
        logits(2, 3, 56, 56, seed=seed + 3),
    )


@pytest.mark.parametrize("name", NAMES)
def test_student_gets_a_gradient_and_the_teacher_none(name):
    student, teacher = predictions(0), predictions(10)
    loss = losses(student, teacher)[name]
    assert loss > 0
    loss.backward()
    assert sum(x.grad.abs().sum() for x in student if x.grad is not None) > 0
    assert all(x.grad is None for x in teacher)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_learn_where_they_agree(name):
    student, teacher = predictions(0), predictions(0)
    loss = losses(student, teacher)[name]
    assert loss.abs() < 1e-6
    loss.backward()
    assert all(x.grad.abs().max() < 1e-6 for x in student if x.grad is not None)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_class_distillation_is_the_kl_divergence(temperature):
    student, teacher = logits(5, 4), logits(5, 4, seed=1)
    p = (teacher / temperature).softmax(1)
    q = (student / temperature).softmax(1)
    expected = temperature**2 * (p * (p / q).log()).sum(1).mean()
    actual = distillation.class_distillation(student, teacher, temperature)
    torch.testing.assert_close(actual, expected)


def test_temperature_hardly_changes_the_size_of_gradients():
    sizes = []
    for temperature in (1.0, 20.0):
        student, teacher = logits(5, 4), logits(5, 4, seed=1)
        distillation.class_distillation(student, teacher, temperature).backward()
        sizes.append(student.grad.norm())
    assert 0.2 < sizes[1] / sizes[0] < 5  # 1/400 without the factor


def test_box_distillation_compares_the_deltas_of_the_foregrounds_class():
    student, teacher = torch.zeros(4, 8), torch.zeros(4, 8)
    classes = torch.tensor([0, 1, 2, -1])  # 2 is background, -1 ignored
    teacher[0, :4] = 1.0  # class 0 of proposal 0: counts 4
    teacher[0, 4:] = 100.0
    teacher[1, 4:] = -0.5  # class 1 of proposal 1: counts 2
    teacher[2:] = 100.0
    loss = distillation.box_distillation(student, teacher, classes, 2)
    assert loss == pytest.approx((4 + 2) / 4)


def test_mask_distillation_is_the_kl_divergence_of_the_pixels():
    student, teacher = logits(2, 6, 6), logits(2, 6, 6, seed=1)
    p, q = teacher.sigmoid(), student.sigmoid()
    expected = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    actual = distillation.mask_distillation(student, teacher)
    torch.testing.assert_close(actual, expected.mean())


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_loses_nothing_but_the_logits_own_digits(name):
    student, teacher = (
        [logits.detach().bfloat16() for logits in predictions(seed)] for seed in (0, 10)
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = losses(student, teacher)[name]
    expected = losses([x.float() for x in student], [x.float() for x in teacher])[name]
    torch.testing.assert_close(loss, expected)


def test_mask_distillation_survives_a_sure_teacher():
    teacher = torch.tensor([[[1e4, -1e4]]])
    loss = distillation.mask_distillation(torch.zeros(1, 1, 2), teacher)
    assert loss == pytest.approx(math.log(2))


def test_score_distillation_is_the_quality_focal_loss():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 3, requires_grad=True), torch.randn(2, 5, 3)
    for temperature in (1.0, 2.0):
        y, p = (teacher / temperature).sigmoid(), (student / temperature).sigmoid()
        expected = -((y - p) ** 2) * (y * p.log() + (1 - y) * (1 - p).log())
        actual = distillation.score_distillation(student, teacher, temperature)
        torch.testing.assert_close(actual, temperature**2 * expected.sum())
    teacher.requires_grad_()
    distillation.score_distillation(student, teacher).backward()
    assert student.grad.abs().max() > 0 and teacher.grad is None
    assert distillation.score_distillation(student[:0], teacher[:0]) == 0


def test_masks_of_classes():
    masks = logits(3, 4, 2, 2)
    classes = torch.tensor([3, 0, 3])
    chosen = distillation.masks_of_classes(masks, classes)
    torch.testing.assert_close(chosen, torch.stack([masks[0, 3], masks[1, 0], masks[2, 3]]))
    agnostic = distillation.masks_of_classes(masks[:, :1], classes)
    torch.testing.assert_close(agnostic, masks[:, 0])


def test_without_proposals_losses_are_zero_and_attached():
    student = logits(0, 4), logits(0, 12), logits(0, 28, 28), logits(0, 5, 56, 56)
    keypoints = torch.zeros(0, 5, dtype=torch.long), torch.zeros(0, 5, dtype=torch.bool)
    none = torch.zeros(0, dtype=torch.long)
    for loss in (
        distillation.class_distillation(student[0], torch.zeros(0, 4)),
        distillation.box_distillation(student[1], torch.zeros(0, 12), none, 3),
        distillation.box_distillation(student[1][:, :4], torch.zeros(0, 4), none, 3),
        distillation.mask_distillation(student[2], torch.zeros(0, 28, 28)),
        distillation.mask_loss(student[2], torch.zeros(0, 28, 28)),
        distillation.keypoint_loss(student[3], *keypoints),
        distillation.keypoint_distillation(student[3], torch.zeros(0, 5, 56, 56), keypoints[1]),
    ):
        assert loss == 0
        loss.backward()
    assert all(x.grad is not None for x in student)


def test_without_foreground_the_box_loss_is_zero_and_attached():
    student = logits(3, 12)
    loss = distillation.box_distillation(student, torch.ones(3, 12), torch.full((3,), 3), 3)
    loss.backward()
    assert loss == 0
    assert student.grad.abs().max() == 0


def foreground():
    """Two images: one with two instances of which a square corner is filled, one with none."""
    corner = [np.array([10.0, 10, 30, 10, 30, 30, 10, 30])]
    one = Instances((64, 64))
    one.proposal_boxes = Boxes(torch.tensor([[10.0, 10, 50, 50], [20, 20, 60, 60]]))
    one.gt_masks = PolygonMasks([corner, corner])
    one.gt_classes = torch.tensor([0, 2])
    none = Instances((64, 64))
    none.proposal_boxes = Boxes(torch.zeros(0, 4))
    none.gt_classes = torch.zeros(0, dtype=torch.long)
    return [none, one]


def test_mask_targets_are_cropped_to_the_proposals():
    targets = distillation.mask_targets(foreground(), 28)
    assert targets.shape == (2, 28, 28)
    assert set(targets.unique().tolist()) == {0.0, 1.0}
    assert targets[0, :14, :14].mean() == 1
    assert targets[0].mean() == pytest.approx(0.25)
    assert targets[1, :7, :7].mean() == 1
    assert targets[1].mean() == pytest.approx(1 / 16)


def test_mask_targets_of_nothing():
    assert distillation.mask_targets(foreground()[:1], 28).shape == (0, 28, 28)


def test_mask_loss_is_detectron2s():
    predicted = logits(2, 3, 28, 28)
    instances = foreground()
    with EventStorage():
        expected = mask_rcnn_loss(predicted, instances)
    classes = torch.cat([x.gt_classes for x in instances])
    actual = distillation.mask_loss(
        distillation.masks_of_classes(predicted, classes), distillation.mask_targets(instances, 28)
    )
    torch.testing.assert_close(actual, expected)


def test_keypoint_distillation_is_the_kl_divergence_over_the_heatmaps_of_valid_keypoints():
    student, teacher = logits(2, 3, 8, 8), logits(2, 3, 8, 8, seed=1)
    p, q = teacher.flatten(2).softmax(2), student.flatten(2).softmax(2)
    expected = (p * (p / q).log()).sum(2)[VALID].mean()
    actual = distillation.keypoint_distillation(student, teacher, VALID)
    torch.testing.assert_close(actual, expected)
    actual.backward()
    assert student.grad[~VALID].abs().max() == 0


def with_keypoints():
    """Three images: none, two and one proposals, of 2 keypoints; one has none inside."""
    one = Instances((64, 64))
    one.proposal_boxes = Boxes(torch.tensor([[10.0, 10, 50, 50], [20, 20, 60, 60]]))
    one.gt_keypoints = Keypoints([[[12.0, 13, 2], [49, 20, 1]], [[5, 5, 2], [30, 30, 0]]])
    two = Instances((64, 64))
    two.proposal_boxes = Boxes(torch.tensor([[0.0, 0, 56, 28]]))
    two.gt_keypoints = Keypoints([[[0.0, 0, 0], [7.5, 7.5, 2]]])
    none = Instances((64, 64))
    none.proposal_boxes = Boxes(torch.zeros(0, 4))
    return [none, one, two]


def test_keypoint_targets_are_positions_in_the_heatmap():
    positions, valid = distillation.keypoint_targets(with_keypoints(), 2, 56)
    assert valid.tolist() == [[True, True], [False, False], [False, True]]
    # (12, 13) in a box of 40 px from (10, 10); (49, 20) in it; (7.5, 7.5) in one of 56 x 28 px.
    expected = [4 * 56 + 2, 14 * 56 + 54, 15 * 56 + 7]
    assert positions[valid].tolist() == expected
    empty = distillation.keypoint_targets(with_keypoints()[:1], 2, 56)
    assert [(x.shape, x.dtype) for x in empty] == [
        ((0, 2), positions.dtype),
        ((0, 2), valid.dtype),
    ]


def test_a_proposal_without_a_visible_keypoint_inside_is_left_out():
    instances = with_keypoints()
    visible = [distillation.with_visible_keypoints(x) for x in instances]
    assert [len(x) for x in visible] == [0, 1, 1]
    with EventStorage():
        expected = select_proposals_with_visible_keypoints(instances)
    for left, right in zip(visible, expected, strict=True):
        assert left.proposal_boxes.tensor.tolist() == right.proposal_boxes.tensor.tolist()


@pytest.mark.parametrize("normalizer", [None, 7.0])
def test_keypoint_loss_is_detectron2s(normalizer):
    instances = [distillation.with_visible_keypoints(x) for x in with_keypoints()]
    predicted = logits(2, 2, 56, 56)
    with EventStorage():
        expected = keypoint_rcnn_loss(predicted, instances, normalizer)
    targets = distillation.keypoint_targets(instances, 2, 56)
    torch.testing.assert_close(
        distillation.keypoint_loss(predicted, *targets, normalizer), expected
    )
