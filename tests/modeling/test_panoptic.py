"""MutualPanopticFPN: Detectron2's losses and inference, and a teacher for boxes and pixels."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch import PanopticFPN
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead

from mutualnet_det.data.views import view_at
from mutualnet_det.modeling import MutualPanopticFPN
from mutualnet_det.slimmable import OperatingPoint, at_width, round_channels

OVERRIDES = [
    *("MODEL.META_ARCHITECTURE", "MutualPanopticFPN"),
    *("MODEL.SEM_SEG_HEAD.NAME", "SlimmableSemSegFPNHead", "MODEL.SEM_SEG_HEAD.NORM", "BN"),
    *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 16),
    *("MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", 0.5),
]
RPN = {"loss_rpn_cls", "loss_rpn_loc"}
GROUND_TRUTH = {"loss_cls", "loss_box_reg", "loss_mask", "loss_sem_seg"}
TERMS = {
    "CLASS": "loss_distill_class",
    "BOX": "loss_distill_box",
    "MASK": "loss_distill_mask",
    "SEGMENTATION": "loss_distill_sem_seg",
}
BATCHES = {
    "objects": {},
    "no object at all": {"objects": (0, 0)},
}


@pytest.fixture
def panoptic_batch(training_batch):
    """``training_batch`` with the classes of 3 kinds of stuff, some pixels without one."""

    def make(**options):
        batch = training_batch(**options)
        generator = torch.Generator().manual_seed(1)
        for item in batch:
            height, width = item["image"].shape[-2:]
            blocks = torch.randint(0, 4, (height // 16 + 1, width // 16 + 1), generator=generator)
            blocks[blocks == 3] = 255
            blocks = blocks.repeat_interleave(16, 0).repeat_interleave(16, 1)
            item["sem_seg"] = blocks[:height, :width]
        return batch

    return make


@pytest.fixture
def make_model(tiny_cfg, build_random):
    def make(proposals="teacher", **weights):
        cfg = tiny_cfg.clone()
        cfg.merge_from_list([*OVERRIDES, "MUTUALNET.PROPOSALS", proposals])
        for name, weight in weights.items():
            cfg.MUTUALNET.LOSS_WEIGHTS[name] = float(weight)
        return build_random(cfg).train()

    return make


@pytest.mark.parametrize("width", [0.25, 0.7, 1.0])
def test_equals_a_plain_network_of_that_width(
    tiny_cfg, build_random, build_plain, beside_plain, training_batch, width
):
    tiny_cfg.merge_from_list(OVERRIDES)
    model = build_random(tiny_cfg)
    rcnn = build_plain(tiny_cfg, width)
    tiny_cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = round_channels(16 * width)
    plain = PanopticFPN(
        sem_seg_head=SemSegFPNHead(tiny_cfg, rcnn.backbone.output_shape()),
        backbone=rcnn.backbone,
        proposal_generator=rcnn.proposal_generator,
        roi_heads=rcnn.roi_heads,
        pixel_mean=tiny_cfg.MODEL.PIXEL_MEAN,
        pixel_std=tiny_cfg.MODEL.PIXEL_STD,
    ).eval()
    inputs = [{"image": x["image"]} for x in view_at(training_batch(), 48, 128)]
    actual, expected = beside_plain(
        model, plain, OperatingPoint(width, 48), inputs[::-1], lambda x: x(inputs)
    )
    for left, right in zip(actual, expected, strict=True):
        assert len(right["instances"]) > 0
        assert (left["sem_seg"] - right["sem_seg"]).abs().max() < 1e-4
        assert (left["instances"].scores - right["instances"].scores).abs().max() < 1e-4
        assert torch.equal(left["panoptic_seg"][0], right["panoptic_seg"][0])


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_teach_has_detectron2s_losses(make_model, panoptic_batch, run, batch):
    model = make_model()
    twin = copy.deepcopy(model)
    losses, _ = run(model.teach, panoptic_batch(**batch))
    expected = run(PanopticFPN.forward, twin, panoptic_batch(**batch))
    assert losses.keys() == expected.keys() == RPN | GROUND_TRUTH
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss, rtol=0, atol=1e-5)


@pytest.mark.parametrize("proposals", ["teacher", "own"])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_a_student_learns_from_any_batch(make_model, panoptic_batch, run, study, proposals, batch):
    model = make_model(proposals, OBJECTNESS=1)
    batch = panoptic_batch(**batch)
    _, teacher = run(model.teach, batch)
    losses = study(model, batch, teacher, width=0.25, resolution=32)
    taught = {*TERMS.values(), "loss_distill_objectness"}
    assert losses.keys() == RPN | GROUND_TRUTH | taught
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_sem_seg"] > 0 and losses["loss_distill_sem_seg"] > 0
    sum(losses.values()).backward()


@pytest.mark.parametrize("term", ["CLASS", "SEGMENTATION"])
def test_a_term_teaches_the_student_and_not_the_teacher(
    make_model, panoptic_batch, run, study, term
):
    others = {n: 0 for n in ("RPN", "GROUND_TRUTH", *TERMS) if n != term}
    model = make_model(**others)
    batch = panoptic_batch()
    _, teacher = run(model.teach, batch)
    assert not teacher.semantic.logits.requires_grad
    losses = study(model, batch, teacher)
    assert losses.keys() == {TERMS[term]}
    with at_width(model, 0.4):
        losses[TERMS[term]].backward()
    first = model.get_submodule("backbone.bottom_up.features.0.0")
    count = first.out_dim.at(0.4)
    assert first.weight.grad[:count].abs().max() > 0
    assert first.weight.grad[count:].abs().sum() == 0
    has_gradient = model.sem_seg_head.predictor.weight.grad is not None
    assert has_gradient == (term == "SEGMENTATION")


def test_weights_multiply_the_semantic_losses(make_model, panoptic_batch, run, study):
    batch = panoptic_batch()
    losses = []
    for weights in ({}, {"GROUND_TRUTH": 3, "SEGMENTATION": 5}):
        model = make_model(**weights)
        _, teacher = run(model.teach, batch)
        losses.append(study(model, batch, teacher))
    for name, factor in {"loss_sem_seg": 3, "loss_mask": 3, "loss_distill_sem_seg": 5}.items():
        torch.testing.assert_close(losses[1][name], factor * losses[0][name])


def test_nothing_is_distilled_where_student_and_teacher_agree(
    make_model, panoptic_batch, run, study
):
    model = make_model()
    batch = panoptic_batch()
    _, teacher = run(model.teach, batch)
    same = study(model, batch, teacher, width=1.0, resolution=64)
    smaller = study(model, batch, teacher, width=1.0, resolution=48)
    narrower = study(model, batch, teacher, width=0.4, resolution=64)
    for name in TERMS.values():
        assert same[name].abs() < 1e-5, name
        assert smaller[name] > 1e-4 and narrower[name] > 1e-4, name


def test_without_weights_every_loss_counts(tiny_cfg, panoptic_batch, run, study):
    tiny_cfg.merge_from_list(OVERRIDES)
    args = MutualPanopticFPN.from_config(tiny_cfg)
    del args["loss_weights"]
    model = MutualPanopticFPN(**args).train()
    batch = panoptic_batch()
    _, teacher = run(model.teach, batch)
    losses = study(model, batch, teacher)
    assert losses.keys() == RPN | GROUND_TRUTH | set(TERMS.values())


def test_plain_semantic_head_under_scope_heads_is_an_error(tiny_cfg):
    tiny_cfg.merge_from_list([*OVERRIDES, "MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead"])
    with pytest.raises(ValueError, match="SCOPE is 'heads', but MODEL.SEM_SEG_HEAD.NAME builds a"):
        build_model(tiny_cfg)
    tiny_cfg.MUTUALNET.SCOPE = "neck"
    build_model(tiny_cfg)
