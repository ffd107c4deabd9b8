"""Cascade and keypoint heads in mutual training: Detectron2's losses, and each one's teacher."""

import copy

import numpy as np
import pytest
import torch
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import Keypoints

from mutualnet_det.data.views import view_at
from mutualnet_det.slimmable import OperatingPoint, at_width

RPN = {"loss_rpn_cls", "loss_rpn_loc"}
STAGES = ("_stage0", "_stage1", "_stage2")
CASCADE = [
    *("MODEL.ROI_HEADS.NAME", "SlimmableCascadeROIHeads"),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
]
KEYPOINT = [
    *("MODEL.MASK_ON", False, "MODEL.KEYPOINT_ON", True),
    *("MODEL.ROI_KEYPOINT_HEAD.NAME", "SlimmableKRCNNConvDeconvUpsampleHead"),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [32, 32]),
    *("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 3),
]
OVERRIDES = {"cascade": CASCADE, "keypoint": KEYPOINT}
GROUND_TRUTH = {
    "cascade": {f"loss_{n}{k}" for n in ("cls", "box_reg") for k in STAGES} | {"loss_mask"},
    "keypoint": {"loss_cls", "loss_box_reg", "loss_keypoint"},
}
DISTILLATION = {
    "cascade": {
        "CLASS": {f"loss_distill_class{k}" for k in STAGES},
        "BOX": {f"loss_distill_box{k}" for k in STAGES},
        "MASK": {"loss_distill_mask"},
    },
    "keypoint": {
        "CLASS": {"loss_distill_class"},
        "BOX": {"loss_distill_box"},
        "KEYPOINT": {"loss_distill_keypoint"},
    },
}
TERMS = [(kind, term) for kind, terms in DISTILLATION.items() for term in terms]
BATCHES = {
    "objects": {},
    "one image without objects": {"objects": (0, 2)},
    "no object at all": {"objects": (0, 0)},
}
BOTH = pytest.mark.parametrize("kind", OVERRIDES)
PROPOSALS = pytest.mark.parametrize("proposals", ["teacher", "own"])


def distillation_names(kind):
    return set.union(*DISTILLATION[kind].values())


@pytest.fixture
def batch_of(training_batch):
    """``training_batch`` with 3 keypoints per object: some unlabelled, hidden or outside."""

    def make(**options):
        batch = training_batch(**options)
        random = np.random.default_rng(1)
        for item in batch:
            instances = item["instances"]
            if len(instances) == 0:  # as Detectron2's mapper has it
                continue
            boxes = instances.gt_boxes.tensor[:, None]
            places = torch.tensor(random.uniform(-0.1, 1.1, (len(instances), 3, 2)))
            points = boxes[..., :2] + places * (boxes[..., 2:] - boxes[..., :2])
            flags = torch.tensor(random.integers(0, 3, (len(instances), 3, 1)))
            flags[:, 0] = 2
            instances.gt_keypoints = Keypoints(torch.cat([points, flags], dim=2))
        return batch

    return make


@pytest.fixture
def make_model(tiny_cfg, build_random):
    """A model with cascade or keypoint heads, in training mode, its losses weighted."""

    def make(kind, proposals="teacher", overrides=(), **weights):
        cfg = tiny_cfg.clone()
        cfg.merge_from_list([*OVERRIDES[kind], "MUTUALNET.PROPOSALS", proposals, *overrides])
        for name, weight in weights.items():
            cfg.MUTUALNET.LOSS_WEIGHTS[name] = float(weight)
        return build_random(cfg).train()

    return make


@BOTH
@pytest.mark.parametrize("width", [0.25, 0.7, 1.0])
def test_equals_a_plain_network_of_that_width(
    tiny_cfg, build_random, build_plain, beside_plain, training_batch, kind, width
):
    tiny_cfg.merge_from_list(OVERRIDES[kind])
    model, plain = build_random(tiny_cfg), build_plain(tiny_cfg, width)
    inputs = [{"image": x["image"]} for x in view_at(training_batch(), 48, 128)]
    actual, expected = beside_plain(
        model, plain, OperatingPoint(width, 48), inputs[::-1], lambda x: x.inference(inputs)
    )
    fields = ["scores", "pred_masks" if kind == "cascade" else "pred_keypoint_heatmaps"]
    for left, right in zip(actual, expected, strict=True):
        left, right = left["instances"], right["instances"]
        assert len(right) > 0
        assert (left.pred_boxes.tensor - right.pred_boxes.tensor).abs().max() < 1e-4
        for name in fields:
            assert (left.get(name).float() - right.get(name).float()).abs().max() < 1e-4, name


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # Detectron2 means over no proposals
@BOTH
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_teach_has_detectron2s_losses(make_model, batch_of, run, kind, batch):
    model = make_model(kind)
    twin = copy.deepcopy(model)
    losses, _ = run(model.teach, batch_of(**batch))
    expected = run(GeneralizedRCNN.forward, twin, batch_of(**batch))
    assert losses.keys() == expected.keys() == RPN | GROUND_TRUTH[kind]
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss, rtol=0, atol=1e-6)
    if "objects" not in batch:
        assert all(loss > 0 for loss in losses.values())
    for (name, left), right in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_keypoint_loss_may_be_normalised_by_the_number_sampled(make_model, batch_of, run):
    key = "MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS"
    model = make_model("keypoint", overrides=[key, False])
    losses, _ = run(model.teach, batch_of())
    expected = run(GeneralizedRCNN.forward, copy.deepcopy(model), batch_of())
    torch.testing.assert_close(losses["loss_keypoint"], expected["loss_keypoint"])


@BOTH
def test_ground_truth_alone_is_detectron2s_at_that_width(make_model, batch_of, run, study, kind):
    none = dict.fromkeys(("CLASS", "BOX", "MASK"), 0)
    weights = {**none, "KEYPOINT": 0} if kind == "keypoint" else none
    model = make_model(kind, "own", **weights)
    batch = batch_of()
    _, teacher = run(model.teach, batch)
    assert teacher.features is None
    losses = study(model, batch, teacher, resolution=64)
    view = view_at(batch, 64, 128)
    assert all(x["source_size"] == x["image"].shape[-2:] for x in view)
    with at_width(model, 0.4, track=False):
        expected = run(GeneralizedRCNN.forward, model, view, seed=1)
    assert losses.keys() == expected.keys()
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss, rtol=0, atol=1e-6)


@BOTH
@PROPOSALS
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_a_student_learns_from_any_batch(make_model, batch_of, run, study, kind, proposals, batch):
    model = make_model(kind, proposals)
    batch = batch_of(**batch)
    _, teacher = run(model.teach, batch)
    losses = study(model, batch, teacher, width=0.25, resolution=32)
    assert losses.keys() == RPN | GROUND_TRUTH[kind] | distillation_names(kind)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    if any(len(item["instances"]) for item in batch):
        assert all(losses[name] > 0 for name in distillation_names(kind))
    else:
        for name in ("mask", "keypoint", "box_stage2"):
            assert losses.get(f"loss_distill_{name}", 0) == 0


@pytest.mark.parametrize(("kind", "term"), TERMS)
@PROPOSALS
def test_a_term_teaches_the_student_and_not_the_teacher(
    make_model, batch_of, run, study, kind, term, proposals
):
    others = dict.fromkeys(("RPN", "GROUND_TRUTH", "CLASS", "BOX", "MASK", "KEYPOINT"), 0)
    model = make_model(kind, proposals, **{**others, term: 1})
    batch = batch_of()
    _, teacher = run(model.teach, batch)
    predictions = teacher.predictions
    tensors = [tensor for stage in predictions.stages for tensor in vars(stage).values()]
    tensors += [predictions.mask_logits, predictions.keypoint_logits]
    assert not any(tensor.requires_grad for tensor in tensors if tensor is not None)

    losses = study(model, batch, teacher)
    assert losses.keys() == DISTILLATION[kind][term]
    assert all(loss > 0 for loss in losses.values())
    with at_width(model, 0.4):
        sum(losses.values()).backward()
    first = model.get_submodule("backbone.bottom_up.features.0.0")
    count = first.out_dim.at(0.4)
    assert first.weight.grad[:count].abs().max() > 0
    assert first.weight.grad[count:].abs().sum() == 0


@BOTH
@PROPOSALS
def test_the_full_network_learns_as_it_would_alone(
    make_model, batch_of, run, study, kind, proposals
):
    model = make_model(kind, proposals)
    batch = batch_of()
    losses, teacher = run(model.teach, batch)
    sum(study(model, batch, teacher).values()).backward()
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(sum(losses.values()), parameters, allow_unused=True)
    again, _ = run(model.teach, batch)
    alone = torch.autograd.grad(sum(again.values()), parameters, allow_unused=True)
    for left, right in zip(gradients, alone, strict=True):
        torch.testing.assert_close(left, right)


@BOTH
def test_weights_multiply_their_losses(make_model, batch_of, run, study, kind):
    batch = batch_of()
    weights = {"RPN": 2, "GROUND_TRUTH": 3, "CLASS": 5, "BOX": 7, "MASK": 11, "KEYPOINT": 13}
    plain, weighted = make_model(kind), make_model(kind, **weights)
    _, teacher = run(plain.teach, batch)
    factors = dict.fromkeys(RPN, 2) | dict.fromkeys(GROUND_TRUTH[kind], 3)
    for term, names in DISTILLATION[kind].items():
        factors |= dict.fromkeys(names, weights[term])
    expected = study(plain, batch, teacher)
    for name, loss in study(weighted, batch, teacher).items():
        torch.testing.assert_close(loss, factors[name] * expected[name])


@BOTH
@PROPOSALS
def test_nothing_is_distilled_where_student_and_teacher_agree(
    make_model, batch_of, run, study, kind, proposals
):
    model = make_model(kind, proposals)
    batch = batch_of()
    _, teacher = run(model.teach, batch)
    same = study(model, batch, teacher, width=1.0, resolution=64)
    smaller = study(model, batch, teacher, width=1.0, resolution=48)
    narrower = study(model, batch, teacher, width=0.4, resolution=64)
    for name in distillation_names(kind):
        assert same[name].abs() < 1e-5, name
        assert smaller[name] > 1e-4 and narrower[name] > 1e-4, name


def spy_on_boxes(model, monkeypatch, name="box_pooler"):
    """Boxes per image that a pooler is asked for, per call."""
    calls = []
    pooler = model.roi_heads.get_submodule(name)
    forward = pooler.forward
    monkeypatch.setattr(
        pooler,
        "forward",
        lambda levels, boxes: (
            calls.append([x.tensor.clone() for x in boxes]) or forward(levels, boxes)
        ),
    )
    return calls


# Sizes in px: height and width of two images, whose ratios of x and y differ once they are resized
# to a short side of 48 and a long side of at most 75 px.
UNEVEN = {"sizes": ((64, 125), (101, 67)), "objects": (2, 3)}
SMALL = ((38, 75), (72, 48))


def test_each_stage_is_taught_on_the_boxes_the_teacher_refined(
    make_model, batch_of, monkeypatch, run
):
    model = make_model("cascade")
    calls = spy_on_boxes(model, monkeypatch)
    batch = batch_of(**UNEVEN)
    _, teacher = run(model.teach, batch)
    view = view_at(batch, 48, 75)
    assert tuple(tuple(x["image"].shape[-2:]) for x in view) == SMALL
    with at_width(model, 0.4):
        run(model.study, view, teacher)
    full, scaled = calls[:3], calls[3:]
    assert len(scaled) == 3
    for stage in range(3):
        for boxes, rescaled, size, small in zip(
            full[stage], scaled[stage], UNEVEN["sizes"], SMALL, strict=True
        ):
            x, y = small[1] / size[1], small[0] / size[0]
            torch.testing.assert_close(rescaled, boxes * torch.tensor([x, y, x, y]))
    # Refined: another stage, other boxes; labelled by a stricter overlap, as Detectron2 does.
    assert full[0][0].shape != full[1][0].shape or not torch.equal(full[0][0], full[1][0])
    heads = model.roi_heads
    for stage, minimum in enumerate((0.5, 0.6, 0.7)):
        assert heads.proposal_matchers[stage].thresholds[1] == minimum
        for proposals in teacher.targets.stages[stage]:
            x0, y0, x1, y1 = proposals.proposal_boxes.tensor.unbind(1)
            a0, b0, a1, b1 = proposals.gt_boxes.tensor.unbind(1)
            width = (torch.minimum(x1, a1) - torch.maximum(x0, a0)).clamp(min=0)
            height = (torch.minimum(y1, b1) - torch.maximum(y0, b0)).clamp(min=0)
            common = width * height
            union = (x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - common
            is_foreground = proposals.gt_classes < heads.num_classes
            assert (common / union >= minimum - 1e-4)[is_foreground].all()


def test_a_student_with_proposals_of_its_own_refines_them_itself(
    make_model, batch_of, monkeypatch, run
):
    model = make_model("cascade", "own")
    calls = spy_on_boxes(model, monkeypatch)
    batch = batch_of(**UNEVEN)
    _, teacher = run(model.teach, batch)
    with at_width(model, 0.4):
        run(model.study, view_at(batch, 48, 75), teacher)
    own, at_teacher = calls[3:6], calls[6:]
    assert len(at_teacher) == 3
    for stage in range(3):
        for boxes, rescaled, size, small in zip(
            own[stage], at_teacher[stage], UNEVEN["sizes"], SMALL, strict=True
        ):
            x, y = size[1] / small[1], size[0] / small[0]
            torch.testing.assert_close(rescaled, boxes * torch.tensor([x, y, x, y]))


@PROPOSALS
@pytest.mark.parametrize(
    ("kind", "pooler"), [("cascade", "mask_pooler"), ("keypoint", "keypoint_pooler")]
)
def test_masks_and_keypoints_are_pooled_at_the_students_scale(
    make_model, batch_of, monkeypatch, run, kind, pooler, proposals
):
    model = make_model(kind, proposals)
    calls = spy_on_boxes(model, monkeypatch, pooler)
    batch = batch_of(**UNEVEN)
    _, teacher = run(model.teach, batch)
    with at_width(model, 0.4):
        run(model.study, view_at(batch, 48, 75), teacher)
    # The student's and, with proposals of its own, the teacher's on the same ones.
    small, full = (calls[1], calls[0]) if proposals == "teacher" else calls[1:]
    assert sum(map(len, full)) >= 3
    for boxes, rescaled, size, target in zip(full, small, UNEVEN["sizes"], SMALL, strict=True):
        x, y = target[1] / size[1], target[0] / size[0]
        torch.testing.assert_close(rescaled, boxes * torch.tensor([x, y, x, y]))


@pytest.mark.parametrize("resolution", [64, 32])
def test_keypoint_targets_are_made_once_at_the_scale_they_have(
    make_model, batch_of, run, study, resolution
):
    """The full network may see a smaller view too: its keypoints keep the source's scale."""
    model = make_model("keypoint")
    batch = batch_of(sizes=((64, 96), (64, 96)))
    _, teacher = run(model.teach, view_at(batch, resolution, 128))
    positions, valid = teacher.targets.keypoints
    study(model, batch, teacher)
    assert teacher.targets.keypoints == (positions, valid)
    assert valid.any()
    # Decoded by hand, each position lies within its cell of 1/56 of the box of the keypoint.
    boxes = torch.cat([x.proposal_boxes.tensor for x in teacher.targets.with_keypoints])
    truth = torch.cat([x.gt_keypoints.tensor for x in teacher.targets.with_keypoints])
    known = torch.cat([item["instances"].gt_keypoints.tensor for item in batch])
    for box, at, points, usable in zip(boxes, positions, truth, valid, strict=True):
        assert (known == points).all(dim=2).all(dim=1).any()
        cell = (box[2:] - box[:2]) / 56
        place = torch.stack([at % 56, at // 56], dim=1)
        centre = box[:2] + (place + 0.5) * cell
        assert ((centre - points[:, :2]).abs() <= 0.51 * cell)[usable].all()


def test_keypoints_of_a_plain_head_can_be_taught(tiny_cfg, batch_of, run, study):
    """Below the scope "heads" they are Detectron2's own, by the same names."""
    tiny_cfg.merge_from_list([*KEYPOINT, "MUTUALNET.SCOPE", "neck"])
    model = build_model(tiny_cfg).train()
    batch = batch_of()
    _, teacher = run(model.teach, batch)
    assert study(model, batch, teacher)["loss_distill_keypoint"] > 0
