"""MutualRCNN: equal to a plain network at every point, and its two training passes."""

import copy
import pickle

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn

from mutualnet_det.data.views import view_at
from mutualnet_det.modeling import roi
from mutualnet_det.slimmable import (
    Calibrations,
    OperatingPoint,
    SlimmableLayer,
    UncalibratedError,
    at_width,
    width_of,
)

RPN_LOSSES = {"loss_rpn_cls", "loss_rpn_loc"}
ROI_LOSSES = {"loss_cls", "loss_box_reg", "loss_mask"}
TERMS = {
    "OBJECTNESS": "loss_distill_objectness",
    "CLASS": "loss_distill_class",
    "BOX": "loss_distill_box",
    "MASK": "loss_distill_mask",
}
DISTILLATION_LOSSES = {*TERMS.values()}


# A slimmable network against a plain one.


def inputs_at(resolution, training_batch):
    """Inference inputs of two images, at a short side in pixels."""
    view = view_at(training_batch(), resolution, 128)
    return [{"image": x["image"], "height": 100, "width": 150} for x in view]


def outputs(model, inputs):
    """Everything a Mask R-CNN computes, from features to detections, by name."""
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    proposals, _ = model.proposal_generator(images, features)
    heads = model.roi_heads
    levels = [features[name] for name in heads.in_features]
    boxes = [x.proposal_boxes for x in proposals]
    scores, deltas = heads.box_predictor(heads.box_head(heads.box_pooler(levels, boxes)))
    tensors = {
        **features,
        "objectness": torch.cat([x.objectness_logits for x in proposals]),
        "proposals": torch.cat([x.tensor for x in boxes]),
        "class logits": scores,
        "box deltas": deltas,
        "mask logits": heads.mask_head.layers(heads.mask_pooler(levels, boxes)),
    }
    for index, result in enumerate(model.inference(inputs)):
        instances = result["instances"]
        tensors |= {
            f"boxes {index}": instances.pred_boxes.tensor,
            f"scores {index}": instances.scores,
            f"classes {index}": instances.pred_classes,
            f"masks {index}": instances.pred_masks,
        }
    return tensors


@pytest.fixture
def assert_equals_plain(beside_plain):
    def check(model, plain, point, calibration_batch, inputs):
        actual, expected = beside_plain(
            model, plain, point, calibration_batch, lambda x: outputs(x, inputs)
        )
        assert len(expected["boxes 0"]) > 0
        for name, tensor in expected.items():
            assert actual[name].shape == tensor.shape, name
            assert (actual[name].float() - tensor.float()).abs().max() < 1e-5, name

    return check


@pytest.mark.parametrize("resolution", [64, 48])
@pytest.mark.parametrize("width", [0.25, 0.4, 0.7, 1.0])
@pytest.mark.parametrize("scope", ["backbone", "neck", "heads"])
def test_equals_a_plain_network_of_that_width(
    tiny_cfg,
    build_random,
    build_plain,
    assert_equals_plain,
    training_batch,
    scope,
    width,
    resolution,
):
    tiny_cfg.MUTUALNET.SCOPE = scope
    model = build_random(tiny_cfg)
    plain = build_plain(tiny_cfg, width)
    assert not any(isinstance(module, SlimmableLayer) for module in plain.modules())
    inputs = inputs_at(resolution, training_batch)
    point = OperatingPoint(width, resolution)
    assert_equals_plain(model, plain, point, inputs[::-1], inputs)


@pytest.mark.parametrize("width", [0.25, 0.7])
def test_equals_a_plain_network_with_norms_everywhere(
    tiny_cfg, build_random, build_plain, assert_equals_plain, training_batch, width
):
    tiny_cfg.MODEL.FPN.NORM = "BN"
    tiny_cfg.MODEL.ROI_BOX_HEAD.merge_from_list(["NUM_CONV", 1, "CONV_DIM", 48, "NORM", "BN"])
    tiny_cfg.MODEL.ROI_MASK_HEAD.merge_from_list(["NUM_CONV", 2, "NORM", "BN"])
    model = build_random(tiny_cfg)
    inputs = inputs_at(48, training_batch)
    point = OperatingPoint(width, 48)
    assert_equals_plain(model, build_plain(tiny_cfg, width), point, inputs, inputs)


@pytest.mark.parametrize("width", [0.5, 1.0, 1.6])
def test_equals_a_plain_network_above_width_one(
    tiny_cfg, build_random, build_plain, assert_equals_plain, training_batch, width
):
    tiny_cfg.MUTUALNET.WIDTH_RANGE = (0.5, 1.6)
    model = build_random(tiny_cfg)
    inputs = inputs_at(48, training_batch)
    point = OperatingPoint(width, 48)
    assert_equals_plain(model, build_plain(tiny_cfg, width), point, inputs, inputs)


def test_untouched_model_is_detectron2s(tiny_cfg, build_random, build_plain, training_batch):
    model = build_random(tiny_cfg)
    plain = build_plain(tiny_cfg, 1.0)
    plain.load_state_dict(model.state_dict(), strict=True)
    inputs = inputs_at(64, training_batch)
    with torch.no_grad():
        actual, expected = outputs(model, inputs), outputs(plain, inputs)
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=0, atol=1e-5)

    for network in (model, plain):
        network.train()
    torch.manual_seed(1)
    actual = run(model, training_batch())
    torch.manual_seed(1)
    expected = run(plain, training_batch())
    assert actual.keys() == expected.keys()
    for name, loss in expected.items():
        torch.testing.assert_close(actual[name], loss, rtol=0, atol=1e-5)


def test_evaluating_an_uncalibrated_sub_network_is_an_error(tiny_cfg, training_batch):
    model = build_model(tiny_cfg).eval()
    with at_width(model, 0.5), pytest.raises(UncalibratedError, match="Width 0.5"):
        model.inference(inputs_at(64, training_batch))


def test_default_predictor_uses_it(tiny_cfg):
    predictor = DefaultPredictor(tiny_cfg)
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    instances = predictor(image)["instances"]
    assert instances.image_size == (50, 70)
    assert instances.has("pred_masks")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_keep_their_widths_apart(tiny_cfg, build_random, training_batch, copied):
    model = build_random(tiny_cfg)
    inputs = inputs_at(48, training_batch)
    calibrations = Calibrations(model)
    point = OperatingPoint(0.5, 48)
    calibrations.calibrate(point, [inputs], model.inference)
    with calibrations.at(point):
        twin = copied(model)
        assert width_of(twin).is_full
        with torch.no_grad():
            full = outputs(twin, inputs)
            with at_width(twin, 0.25):
                assert width_of(model).value == 0.5
                assert outputs(model, inputs)["p2"].shape[1] == 16
    with torch.no_grad():
        torch.testing.assert_close(full, outputs(model, inputs))


# The training passes.


def run(function, *args):
    with EventStorage():
        return function(*args)


@pytest.fixture
def training_model(tiny_cfg, build_random):
    """
    A model in training mode whose losses are weighted as ``weights`` says; all 1 by default, but
    FEATURE's.
    """

    def make(proposals="teacher", mask_on=True, scope="heads", **weights):
        tiny_cfg.merge_from_list(["MUTUALNET.PROPOSALS", proposals, "MUTUALNET.SCOPE", scope])
        tiny_cfg.MODEL.MASK_ON = mask_on
        for name, weight in {"OBJECTNESS": 1, **weights}.items():
            tiny_cfg.MUTUALNET.LOSS_WEIGHTS[name] = float(weight)
        return build_random(tiny_cfg).train()

    return make


def teach(model, batch, seed=0):
    torch.manual_seed(seed)
    return run(model.teach, batch)


def study(model, batch, teacher, width=0.4, seed=1):
    torch.manual_seed(seed)
    with at_width(model, width, track=False):
        return run(model.study, batch, teacher)


def test_masks_of_a_view_are_cropped_at_the_scale_they_have(training_model, training_batch):
    """The full network may see a smaller view too: its masks keep the source's scale."""
    batch = training_batch()
    view = view_at(batch, 32, 128)
    scaled = [dict(item, instances=copy.deepcopy(item["instances"])) for item in view]
    for item, source in zip(scaled, batch, strict=True):
        height, width = item.pop("source_size")
        ratio = np.array([item["image"].shape[2] / width, item["image"].shape[1] / height])
        item["instances"].gt_masks = PolygonMasks(
            [
                [(polygon.reshape(-1, 2) * ratio).reshape(-1) for polygon in polygons]
                for polygons in source["instances"].gt_masks.polygons
            ]
        )
    model = training_model()
    _, actual = teach(model, view)
    _, expected = teach(model, scaled)
    assert expected.targets.masks.mean() > 0.1
    different = (actual.targets.masks != expected.targets.masks).float().mean()
    assert different < 0.01  # where rounding puts a pixel of the edge on the other side


def gradients(model, loss):
    """Gradients of one loss, by parameter; those it does not reach are left out."""
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


BATCHES = {
    "objects": {},
    "one image without objects": {"objects": (0, 2)},
    "no object at all": {"objects": (0, 0)},
    "one image": {"sizes": ((64, 100),), "objects": (2,)},
}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("proposals", ["teacher", "own"])
@pytest.mark.parametrize("mask_on", [True, False])
def test_teach_has_detectron2s_losses(training_model, training_batch, batch, proposals, mask_on):
    model = training_model(proposals, mask_on)
    twin = copy.deepcopy(model)
    losses, _ = teach(model, training_batch(**batch))
    torch.manual_seed(0)
    expected = run(GeneralizedRCNN.forward, twin, training_batch(**batch))
    names = RPN_LOSSES | ROI_LOSSES if mask_on else RPN_LOSSES | ROI_LOSSES - {"loss_mask"}
    assert losses.keys() == expected.keys() == names
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss, rtol=0, atol=1e-6)
    actual = gradients(model, sum(losses.values()))
    for name, gradient in gradients(twin, sum(expected.values())).items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-4, atol=1e-6)
    for name, buffer in twin.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), buffer)


@pytest.mark.parametrize("proposals", ["teacher", "own"])
@pytest.mark.parametrize("mask_on", [True, False])
def test_a_student_returns_its_losses(training_model, training_batch, proposals, mask_on):
    model = training_model(proposals, mask_on)
    batch = training_batch()
    _, teacher = teach(model, batch)
    losses = study(model, view_at(batch, 48, 128), teacher)
    names = RPN_LOSSES | ROI_LOSSES | DISTILLATION_LOSSES
    assert losses.keys() == {n for n in names if mask_on or "mask" not in n}
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())


@pytest.mark.parametrize("proposals", ["teacher", "own"])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("resolution", [64, 32])
def test_a_student_learns_from_any_batch(
    training_model, training_batch, proposals, batch, resolution
):
    model = training_model(proposals)
    batch = training_batch(**batch)
    _, teacher = teach(model, batch)
    losses = study(model, view_at(batch, resolution, 128), teacher, 0.25)
    assert losses.keys() == RPN_LOSSES | ROI_LOSSES | DISTILLATION_LOSSES
    assert all(loss.isfinite() for loss in losses.values())
    by_parameter = gradients(model, sum(losses.values()))
    assert all(gradient.isfinite().all() for gradient in by_parameter.values())
    if not any(len(item["instances"]) for item in batch):
        for name in ("loss_box_reg", "loss_mask", "loss_distill_box", "loss_distill_mask"):
            assert losses[name] == 0


def test_weights_multiply_their_losses(training_model, training_batch):
    weights = {"RPN": 2, "GROUND_TRUTH": 3, "CLASS": 5, "BOX": 7, "MASK": 11, "OBJECTNESS": 13}
    batch = training_batch()
    plain, weighted = training_model(), training_model(**weights)
    (_, teacher), (_, other) = teach(plain, batch), teach(weighted, batch)
    expected = study(plain, batch, teacher)
    factors = {
        **dict.fromkeys(RPN_LOSSES, 2),
        **dict.fromkeys(ROI_LOSSES, 3),
        **{TERMS[name]: weights[name] for name in TERMS},
    }
    for name, loss in study(weighted, batch, other).items():
        torch.testing.assert_close(loss, factors[name] * expected[name])


@pytest.mark.parametrize("proposals", ["teacher", "own"])
@pytest.mark.parametrize(
    ("name", "missing"),
    [("RPN", RPN_LOSSES), ("GROUND_TRUTH", ROI_LOSSES), *((k, {v}) for k, v in TERMS.items())],
)
def test_a_weight_of_zero_leaves_a_loss_out(
    training_model, training_batch, proposals, name, missing
):
    model = training_model(proposals, **{name: 0})
    batch = training_batch()
    _, teacher = teach(model, batch)
    losses = study(model, batch, teacher)
    assert losses.keys() == (RPN_LOSSES | ROI_LOSSES | DISTILLATION_LOSSES) - missing


def test_an_rpn_that_learns_nothing_does_not_run(training_model, training_batch, monkeypatch):
    model = training_model(RPN=0, OBJECTNESS=0)
    batch = training_batch()
    _, teacher = teach(model, batch)
    monkeypatch.setattr(model.proposal_generator, "rpn_head", None)
    study(model, batch, teacher)


def test_ground_truth_alone_is_the_papers_setting(training_model, training_batch):
    model = training_model("own", scope="backbone", OBJECTNESS=0, CLASS=0, BOX=0, MASK=0)
    twin = copy.deepcopy(model)
    batch = training_batch()
    _, teacher = teach(model, batch)
    assert teacher.features is teacher.rpn is None  # nobody asks the teacher: nothing of it is kept
    view = view_at(batch, 64, 128)
    losses = study(model, view, teacher)
    # An ordinary training pass of Detectron2 at that width.
    torch.manual_seed(1)
    with at_width(twin, 0.4, track=False):
        expected = run(GeneralizedRCNN.forward, twin, view)
    assert losses.keys() == expected.keys()
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss, rtol=0, atol=1e-6)


@pytest.mark.parametrize("proposals", ["teacher", "own"])
@pytest.mark.parametrize("term", TERMS)
def test_a_term_teaches_the_student_and_not_the_teacher(
    training_model, training_batch, proposals, term
):
    others = {name: 0 for name in ("RPN", "GROUND_TRUTH", *TERMS) if name != term}
    model = training_model(proposals, **others)
    batch = training_batch()
    full_losses, teacher = teach(model, batch)
    (stage,) = teacher.predictions.stages
    tensors = [*vars(stage).values(), teacher.predictions.mask_logits]
    tensors += (teacher.features or {}).values()
    tensors += [teacher.rpn.objectness] if teacher.rpn else []
    assert not any(tensor.requires_grad for tensor in tensors)

    losses = study(model, view_at(batch, 48, 128), teacher)
    assert losses.keys() == {TERMS[term]}
    by_parameter = gradients(model, losses[TERMS[term]])
    # The student's channels get a gradient, back to the image; what is the full network's, none.
    with at_width(model, 0.4):
        for name in ("backbone.bottom_up.features.0.0", "backbone.fpn_output2"):
            layer = model.get_submodule(name)
            count = layer.out_dim.at(0.4)
            assert count < layer.out_channels
            assert by_parameter[f"{name}.weight"][:count].abs().max() > 0
    for name, gradient in by_parameter.items():
        assert gradient[outside(model, name, 0.4)].abs().sum() == 0, name
    # And the full network's own graph is as it was.
    alone = copy.deepcopy(model)
    model.zero_grad()
    sum(full_losses.values()).backward()
    alone.zero_grad()
    again, _ = teach(alone, batch)
    sum(again.values()).backward()
    for (name, left), right in zip(model.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, msg=name)


def outside(model, name, width):
    """Mask what of a parameter is not part of the network of a width."""
    module, attribute = name.rsplit(".", 1)
    layer, parameter = model.get_submodule(module), model.get_parameter(name)
    inside = torch.zeros(parameter.shape, dtype=torch.bool)
    if isinstance(layer, nn.BatchNorm2d):
        counts = [layer.dim.at(width)]
    elif attribute == "bias" or getattr(layer, "depthwise", False):
        counts = [layer.out_dim.at(width)]
    elif isinstance(layer, nn.ConvTranspose2d):
        counts = [layer.in_dim.at(width), layer.out_dim.at(width)]
    else:
        counts = [layer.out_dim.at(width), layer.in_dim.at(width)]
    inside[tuple(slice(count) for count in counts)] = True
    return ~inside


@pytest.mark.parametrize("proposals", ["teacher", "own"])
def test_nothing_is_distilled_where_student_and_teacher_agree(
    training_model, training_batch, proposals
):
    model = training_model(proposals)
    batch = training_batch()
    _, teacher = teach(model, batch)
    # The same weights, the same width, the same view. Calibrated later, its statistics move.
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    losses = study(model, view_at(batch, 64, 128), teacher, width=1.0)
    for name in DISTILLATION_LOSSES:
        assert losses[name].abs() < 1e-6, name
    smaller = study(model, view_at(batch, 48, 128), teacher, width=1.0)
    narrower = study(model, view_at(batch, 64, 128), teacher, width=0.4)
    for name in DISTILLATION_LOSSES:
        assert smaller[name] > 1e-4 and narrower[name] > 1e-4, name
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


# Sizes in px: height and width of two images, whose ratios of x and y differ once they are resized
# to a short side of 48 and a long side of at most 75 px.
UNEVEN = ((64, 125), (101, 67))


def spy_on_boxes(model, monkeypatch):
    """Boxes that the box pooler is asked for, with the size of the map at stride 4, per call."""
    calls = []
    forward = model.roi_heads.box_pooler.forward
    monkeypatch.setattr(
        model.roi_heads.box_pooler,
        "forward",
        lambda levels, boxes: (
            calls.append((levels[0].shape, [x.tensor.clone() for x in boxes]))
            or forward(levels, boxes)
        ),
    )
    return calls


def test_teachers_proposals_are_scaled_by_the_actual_ratio(
    training_model, training_batch, monkeypatch
):
    model = training_model()
    calls = spy_on_boxes(model, monkeypatch)
    batch = training_batch(sizes=UNEVEN, objects=(2, 3))
    _, teacher = teach(model, batch)
    view = view_at(batch, 48, 75)
    assert [tuple(x["image"].shape[-2:]) for x in view] == [(38, 75), (72, 48)]
    study(model, view, teacher)
    (_, full), (shape, scaled) = calls
    assert tuple(shape[-2:]) == (24, 24)  # 96 x 96 px: padded, which changes no box
    for boxes, rescaled, x, y in (
        (full[0], scaled[0], 75 / 125, 38 / 64),
        (full[1], scaled[1], 48 / 67, 72 / 101),
    ):
        assert x != y
        torch.testing.assert_close(rescaled, boxes * torch.tensor([x, y, x, y]))
    assert [x.tensor.tolist() for x in boxes_of(teacher)] == [x.tolist() for x in full]


def boxes_of(teacher):
    return [x.proposal_boxes for x in teacher.targets.stages[0]]


def test_own_proposals_are_scaled_to_the_teacher(training_model, training_batch, monkeypatch):
    model = training_model("own")
    calls = spy_on_boxes(model, monkeypatch)
    batch = training_batch(sizes=UNEVEN, objects=(2, 3))
    _, teacher = teach(model, batch)
    study(model, view_at(batch, 48, 75), teacher)
    _, (small, own), (large, at_teacher) = calls
    assert (tuple(large[-2:]), tuple(small[-2:])) == ((32, 32), (24, 24))
    for boxes, rescaled, x, y in (
        (own[0], at_teacher[0], 125 / 75, 64 / 38),
        (own[1], at_teacher[1], 67 / 48, 101 / 72),
    ):
        torch.testing.assert_close(rescaled, boxes * torch.tensor([x, y, x, y]))


@pytest.mark.parametrize("proposals", ["teacher", "own"])
def test_targets_do_not_depend_on_the_students_scale(
    training_model, training_batch, proposals, monkeypatch
):
    """A perfect student at half the size has the same deltas and masks to learn."""
    model = training_model(proposals)
    batch = training_batch(sizes=((64, 96), (64, 96)))
    _, teacher = teach(model, batch)
    seen = []
    original = roi.ground_truth_losses
    monkeypatch.setattr(
        roi,
        "ground_truth_losses",
        lambda heads, predictions, targets: (
            seen.append(targets) or original(heads, predictions, targets)
        ),
    )
    study(model, view_at(batch, 32, 128), teacher)
    (targets,) = seen
    if proposals == "teacher":
        assert targets is teacher.targets  # made once
    # Ground-truth boxes are those of the full-size image, whatever the student saw.
    for foreground, item in zip(targets.foreground, batch, strict=True):
        boxes = item["instances"].gt_boxes.tensor
        distance = torch.cdist(foreground.gt_boxes.tensor, boxes).min(dim=1).values
        assert distance.max() < 1e-3
    # A proposal that is a ground-truth box has its mask in it: 7/8 of the box.
    filled = targets.masks.mean((1, 2))
    exact = torch.cat(
        [
            torch.cdist(x.proposal_boxes.tensor, x.gt_boxes.tensor).diagonal() < 1e-3
            for x in targets.foreground
        ]
    )
    assert exact.sum() >= 4
    assert (filled[exact] - 7 / 8).abs().max() < 0.05


def test_passes_add_up_their_gradients_and_track_once(training_model, training_batch):
    model = training_model()
    batch = training_batch()
    norm = model.backbone.bottom_up.features[0][1]
    losses, teacher = teach(model, batch)
    sum(losses.values()).backward()
    assert norm.num_batches_tracked == 1
    mean = norm.running_mean.clone()
    full = {name: p.grad.clone() for name, p in model.named_parameters()}
    sum(study(model, view_at(batch, 48, 128), teacher).values()).backward()
    assert norm.num_batches_tracked == 1
    assert torch.equal(norm.running_mean, mean)
    for name, parameter in model.named_parameters():
        beyond = outside(model, name, 0.4)
        assert torch.equal(parameter.grad[beyond], full[name][beyond]), name
        assert not torch.equal(parameter.grad, full[name]), name


def test_on_frozen_statistics_the_teacher_keeps_its_own(tiny_cfg, training_model, training_batch):
    """With norms in a head, the teacher is asked for a student's proposals under its statistics."""
    tiny_cfg.MODEL.ROI_MASK_HEAD.merge_from_list(["NUM_CONV", 2, "NORM", "BN"])
    model = training_model("own")
    calibrations = Calibrations(model)
    point = OperatingPoint(1.0, 64)
    inputs = inputs_at(64, training_batch)
    calibrations.calibrate(point, [inputs], model.eval().inference)
    model.train()
    batch = view_at(training_batch(), 64, 128)
    with calibrations.at(point):
        _, teacher = teach(model, batch)
        torch.manual_seed(1)
        losses = run(model.study, batch, teacher)
    for name in DISTILLATION_LOSSES:
        assert losses[name].abs() < 1e-6, name


def test_a_model_without_width_is_an_error(tiny_cfg):
    tiny_cfg.MUTUALNET.SCOPE = "backbone"
    tiny_cfg.merge_from_list(["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"])
    tiny_cfg.merge_from_list(["MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]])
    with pytest.raises(ValueError, match="MutualRCNN has no slimmable layer"):
        build_model(tiny_cfg)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True], "TRAIN_ON_PRED_BOXES is True"),
        (["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True], "USE_SIGMOID_CE is True"),
        (
            ["MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["p5"]],
            "MODEL.ROI_HEADS.NAME builds a Res5ROIHeads",
        ),
        (
            ["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"],
            "MODEL.PROPOSAL_GENERATOR.NAME builds a NoneType",
        ),
        (
            [
                *("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"),
                *("MODEL.RPN.BBOX_REG_WEIGHTS", (1.0, 1.0, 1.0, 1.0, 1.0)),
            ],
            "MODEL.PROPOSAL_GENERATOR.NAME builds a RRPN",
        ),
        (
            ["MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"],
            "MODEL.ANCHOR_GENERATOR.NAME builds rotated anchors",
        ),
    ],
)
def test_what_it_cannot_teach_is_an_error(tiny_cfg, overrides, message):
    tiny_cfg.MUTUALNET.SCOPE = "neck"
    tiny_cfg.merge_from_list(overrides)
    with pytest.raises(ValueError, match=f"{message}; MutualRCNN teaches"):
        build_model(tiny_cfg)
    # Detectron2's own meta-architecture takes the slimmable backbone all the same.
    tiny_cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    assert width_of(build_model(tiny_cfg)).is_full
