"""The RPN in mutual training: Detectron2's own losses and proposals, and what the teacher adds."""

import dataclasses

import pytest
import torch
from detectron2.modeling import build_model

from mutualnet_det.config import ConfigError, check_config
from mutualnet_det.modeling import rpn
from mutualnet_det.modeling.distillation import score_distillation
from mutualnet_det.slimmable import at_width


@pytest.mark.parametrize("objects", [(2, 1), (0, 2), (0, 0)])
@pytest.mark.parametrize("width", [0.4, 1.0])
def test_losses_and_proposals_are_detectron2s(
    tiny_cfg, build_random, training_batch, run, width, objects
):
    model = build_random(tiny_cfg).train()
    generator = model.proposal_generator
    with at_width(model, width):
        seen = model._see(training_batch(objects=objects))
        proposals, expected = run(generator, seen.images, seen.features, seen.instances)
        predictions = rpn.predict(generator, seen.features)
        losses = run(rpn.ground_truth_losses, generator, predictions, seen.instances)
    assert losses.keys() == expected.keys()
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss, rtol=0, atol=0)
    actual = rpn.propose(generator, predictions, seen.sizes)
    for one, other in zip(actual, proposals, strict=True):
        assert len(other) > 0
        torch.testing.assert_close(one.proposal_boxes.tensor, other.proposal_boxes.tensor)
        torch.testing.assert_close(one.objectness_logits, other.objectness_logits)


@pytest.fixture
def generator(tiny_cfg):
    return build_model(tiny_cfg).proposal_generator


@pytest.fixture
def predictions_of(generator, make_anchors):
    """``predictions_of(size, logit)``: one image, every anchor with that objectness."""

    def make(size, logit):
        grids, anchors = make_anchors(generator.anchor_generator, size)
        objectness = [torch.full((1, len(x)), logit) for x in anchors]
        return rpn.RpnPredictions(grids, anchors, objectness, [None] * len(anchors))

    return make


@pytest.fixture
def distilled(generator):
    """``distilled(student, size, teacher, full_size)``: the loss between two predictions."""

    def loss(student, size, full, full_size):
        teacher = rpn.RpnTeacher.of(full, [full_size])
        (value,) = rpn.distillation_losses(generator, student, [size], teacher, 1.0).values()
        return value

    return loss


def test_objectness_is_taught_by_size_not_by_level(predictions_of, distilled):
    size, full_size = (128, 192), (256, 384)
    student, full = predictions_of(size, -5.0), predictions_of(full_size, -5.0)
    assert distilled(student, size, full, full_size) == 0
    # The full network is sure of one anchor of its second level.
    torch.testing.assert_close(full.anchors[1][100].tensor, 2 * student.anchors[0][100].tensor)
    full.objectness[1][0, 100] = 5.0
    missing = distilled(student, size, full, full_size)
    assert missing > 0
    student.objectness[1][0, 100] = 5.0
    assert distilled(student, size, full, full_size) > missing
    student.objectness[1][0, 100] = -5.0
    student.objectness[0][0, 100] = 5.0
    assert distilled(student, size, full, full_size) == 0


@pytest.mark.parametrize("size", [(96, 130), (224, 224)])
def test_the_loss_does_not_depend_on_how_many_anchors_there_are(
    generator, predictions_of, distilled, size
):
    student, full = predictions_of(size, -1.0), predictions_of(size, 2.0)
    logits = torch.tensor(-1.0), torch.tensor(2.0)
    expected = score_distillation(*logits) / logits[1].sigmoid()
    torch.testing.assert_close(distilled(student, size, full, size), expected)
    # Of several images, all positives count alike.
    twice = dataclasses.replace(student, objectness=[x.repeat(2, 1) for x in student.objectness])
    objectness = torch.cat(full.objectness, 1).repeat(2, 1)
    objectness[1] = -1.0
    teacher = rpn.RpnTeacher([size] * 2, full.grid_sizes, objectness)
    actual = rpn.distillation_losses(generator, twice, [size] * 2, teacher, 3.0)
    share = logits[1].sigmoid() / (logits[0].sigmoid() + logits[1].sigmoid())
    torch.testing.assert_close(actual["loss_distill_objectness"], 3 * share * expected)


def test_where_the_teacher_is_sure_of_no_object_the_sum_is_the_loss(predictions_of, distilled):
    size = (32, 32)
    student, full = predictions_of(size, -1.0), predictions_of(size, -50.0)
    inside = sum(
        int(((x.get_centers() + 0.01) < torch.tensor(size[::-1])).all(dim=1).sum())
        for x in student.anchors
    )
    expected = inside * score_distillation(torch.tensor(-1.0), torch.tensor(-50.0))
    torch.testing.assert_close(distilled(student, size, full, size), expected)


def test_anchors_of_another_kind_are_an_error(tiny_cfg, monkeypatch):
    monkeypatch.setattr(rpn, "DefaultAnchorGenerator", torch.nn.Identity)
    build_model(tiny_cfg)
    tiny_cfg.MUTUALNET.LOSS_WEIGHTS.OBJECTNESS = 0.5
    with pytest.raises(ConfigError, match="OBJECTNESS is 0.5; expected 0.*builds a DefaultAnchorG"):
        build_model(tiny_cfg)


def test_networks_without_an_rpn_are_an_error(make_small_cfg):
    cfg = make_small_cfg("mutual_retinanet_mbv2", [])
    check_config(cfg)
    cfg.MUTUALNET.LOSS_WEIGHTS.OBJECTNESS = 1.0
    with pytest.raises(ConfigError, match="OBJECTNESS is 1.0; expected 0 for a MutualRetinaNet"):
        check_config(cfg)
