"""Feature distillation: the loss, who learns what from whom, and that it costs nothing unused."""

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model

from mutualnet_det.config import LOSS_TERMS, ConfigError, check_config
from mutualnet_det.data.views import view_at
from mutualnet_det.modeling import features
from mutualnet_det.modeling.features import feature_distillation, pyramid_distillation
from mutualnet_det.slimmable import at_width

# Each meta-architecture with a pyramid, by config and overrides.
ARCHITECTURES = {
    "MutualRCNN": ("mutual_maskrcnn_mbv2", []),
    "MutualPanopticFPN": ("mutual_panoptic_fpn_mbv2", []),
    "MutualRetinaNet": (
        "mutual_retinanet_mbv2",
        ["MODEL.RETINANET.NUM_CONVS", 1, "MODEL.RETINANET.NUM_CLASSES", 3],
    ),
    "MutualSemanticSegmentor": ("mutual_semantic_fpn_mbv2", []),
}
LOSS = "loss_distill_feature"


@pytest.fixture(params=ARCHITECTURES)
def make_model(request, make_small_cfg, build_random):
    """Makes a model of every architecture; losses of those weights, of weight 0 are the others."""
    cfg = make_small_cfg(*ARCHITECTURES[request.param])
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32

    def make(scope="heads", **weights):
        cfg.MUTUALNET.SCOPE = scope
        for name in LOSS_TERMS[request.param]:
            cfg.MUTUALNET.LOSS_WEIGHTS[name] = float(weights.get(name, 0))
        check_config(cfg)
        return build_random(cfg).train()

    return make


@pytest.fixture
def batch(training_batch):
    """Training inputs of every architecture."""
    items = training_batch()
    for item in items:
        item["sem_seg"] = torch.zeros(item["image"].shape[1:], dtype=torch.long)
    return items


# The loss ----------------------------------------------------------------------------------------


def test_it_is_one_less_the_correlation_of_each_channel():
    torch.manual_seed(0)
    teacher = torch.randn(5, 40)
    student = 0.5 * teacher[:3] + torch.randn(3, 40)
    expected = np.mean([1 - np.corrcoef(student[c], teacher[c])[0, 1] for c in range(3)])
    assert feature_distillation(student, teacher) == pytest.approx(expected, abs=1e-4)


def test_magnitude_and_offset_of_a_channel_do_not_count():
    torch.manual_seed(0)
    teacher = torch.randn(4, 30)
    scale, offset = torch.tensor([[0.5], [3.0], [1.0], [20.0]]), torch.randn(4, 1)
    assert feature_distillation(scale * teacher + offset, teacher) < 1e-6
    assert feature_distillation(-teacher, teacher) == pytest.approx(2, abs=1e-3)


@pytest.mark.parametrize("cells", [1, 6])
def test_channels_without_a_pattern_give_no_nan(cells):
    student = torch.full((2, cells), 3.0, requires_grad=True)
    loss = feature_distillation(student, torch.full((4, cells), -1.0))
    loss.backward()
    assert loss == 0 and student.grad.abs().sum() == 0


# Between pyramids --------------------------------------------------------------------------------

SHAPES = {f"p{k}": ShapeSpec(channels=4, stride=2**k) for k in (2, 3, 4)}


def pyramid(height, width, seed, channels=4):
    """Random features of a batch of two images, padded to a size."""
    torch.manual_seed(seed)
    return {
        name: torch.randn(2, channels, height // x.stride, width // x.stride)
        for name, x in SHAPES.items()
    }


def test_at_half_the_resolution_p3_learns_from_p4():
    full, half = pyramid(128, 192, 0), pyramid(64, 96, 1, channels=2)
    sizes, full_sizes = [(64, 96)] * 2, [(128, 192)] * 2
    expected = [
        1 - np.corrcoef(half[mine][:, c].flatten(), full[theirs][:, c].flatten())[0, 1]
        for mine, theirs in (("p2", "p3"), ("p3", "p4"))
        for c in range(2)
    ]
    actual = pyramid_distillation(half, full, sizes, full_sizes, SHAPES)
    assert actual == pytest.approx(np.mean(expected), abs=1e-4)
    # Exactly as much there is to learn from; the teacher's p2 and the student's p4 have no part.
    full["p2"] += pyramid(128, 192, 2)["p2"]
    half["p4"] += 1
    assert pyramid_distillation(half, full, sizes, full_sizes, SHAPES) == actual
    same = {"p2": full["p3"], "p3": full["p4"], "p4": half["p4"]}
    assert pyramid_distillation(same, full, sizes, full_sizes, SHAPES) < 1e-6


def test_each_image_has_its_own_ratio_and_no_padding():
    """One image at half the size, beside one that the long side's cap has kept at full size."""
    full, mine = pyramid(128, 192, 0), pyramid(64, 192, 1)
    sizes, full_sizes = [(64, 80), (48, 192)], [(128, 160), (48, 192)]
    mine["p3"][0, :, :8, :10] = full["p4"][0, :, :8, :10]
    mine["p3"][1, :, :6, :24] = full["p3"][1, :, :6, :24]
    mine["p2"][0, :, :16, :20] = full["p3"][0, :, :16, :20]
    mine["p2"][1, :, :12, :48] = full["p2"][1, :, :12, :48]
    mine["p4"][1, :, :3, :12] = full["p4"][1, :, :3, :12]
    assert pyramid_distillation(mine, full, sizes, full_sizes, SHAPES) < 1e-6
    assert pyramid_distillation(mine, full, [(64, 88), sizes[1]], full_sizes, SHAPES) > 1e-2


def test_without_a_counterpart_it_is_zero_and_attached():
    full, mine = pyramid(1024, 1024, 0), pyramid(32, 32, 1)
    for level in mine.values():
        level.requires_grad_()
    loss = pyramid_distillation(mine, full, [(32, 32)] * 2, [(1024, 1024)] * 2, SHAPES)
    loss.backward()
    assert loss == 0 and all(level.grad is not None for level in mine.values())


# In the networks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "resolution"), [("heads", 64), ("heads", 32), ("neck", 48), ("backbone", 64)]
)
def test_the_students_backbone_learns_and_the_teacher_does_not(
    make_model, batch, run, scope, resolution
):
    model = make_model(scope, FEATURE=1)
    _, teacher = run(model.teach, batch)
    kept = getattr(teacher, "detection", teacher).features
    assert kept.keys() == model.backbone.output_shape().keys()
    assert not any(level.requires_grad for level in kept.values())
    with at_width(model, 0.25):
        losses = run(model.study, view_at(batch, resolution, 128), teacher)
        assert losses.keys() == {LOSS}
        assert 0.01 < losses[LOSS] < 2
        losses[LOSS].backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learning and all(name.startswith("backbone.") for name in learning)
    first = model.get_submodule("backbone.bottom_up.features.0.0")
    count = first.out_dim.at(0.25)
    assert first.weight.grad[:count].abs().max() > 0
    assert first.weight.grad[count:].abs().max() == 0  # what the full network has beside


def test_nothing_to_learn_where_they_agree(make_model, batch, run):
    model = make_model(FEATURE=1)
    _, teacher = run(model.teach, batch)
    assert run(model.study, batch, teacher)[LOSS] < 1e-5
    with at_width(model, 0.5):
        assert run(model.study, batch, teacher)[LOSS] > 1e-2


def test_the_other_losses_stay_what_they_are(make_model, batch, run, monkeypatch):
    weights = dict.fromkeys(("RPN", "GROUND_TRUTH", "CLASS", "BOX", "MASK", "SEGMENTATION"), 1)

    def passes(model):
        """All losses, and the gradients of those of both passes but the features'."""
        losses, teacher = run(model.teach, batch)
        sum(losses.values()).backward()
        with at_width(model, 0.4, track=False):
            studied = run(model.study, view_at(batch, 48, 128), teacher)
            sum(loss for name, loss in studied.items() if name != LOSS).backward()
        gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        return losses, studied, gradients, getattr(teacher, "detection", teacher).features

    with_features = make_model(**weights, FEATURE=3)
    without = make_model(**weights)
    without.load_state_dict(with_features.state_dict())
    losses, studied, gradients, kept = passes(with_features)
    with monkeypatch.context() as patch:
        patch.setattr(features, "pyramid_distillation", None)  # not called
        expected, expected_studied, expected_gradients, none_kept = passes(without)
    assert kept is not None and none_kept is None
    assert studied.keys() - expected_studied.keys() == {LOSS}
    for actual, other in ((losses, expected), (studied, expected_studied)):
        assert all(torch.equal(actual[name], loss) for name, loss in other.items())
    for one, other in zip(gradients, expected_gradients, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


def test_its_weight_multiplies_it(make_model, batch, run):
    losses = []
    for weight in (1, 5):
        model = make_model(FEATURE=weight)
        _, teacher = run(model.teach, batch)
        with at_width(model, 0.4, track=False):
            losses.append(run(model.study, view_at(batch, 48, 128), teacher)[LOSS])
    torch.testing.assert_close(losses[1], 5 * losses[0])


def test_students_with_proposals_of_their_own_learn_from_features_too(
    tiny_cfg, build_random, training_batch, run
):
    tiny_cfg.MUTUALNET.PROPOSALS = "own"
    tiny_cfg.MUTUALNET.LOSS_WEIGHTS.FEATURE = 1.0
    model = build_random(tiny_cfg).train()
    batch = training_batch()
    _, teacher = run(model.teach, batch)
    with at_width(model, 0.25, track=False):
        assert run(model.study, view_at(batch, 32, 128), teacher)[LOSS] > 0.01


# What has no pyramid -----------------------------------------------------------------------------


def test_a_classifier_has_no_features_to_learn_from(tiny_cfg):
    tiny_cfg.MODEL.META_ARCHITECTURE = "MutualClassifier"
    tiny_cfg.MODEL.MASK_ON = False
    tiny_cfg.MODEL.BACKBONE.NUM_CLASSES = 3
    check_config(tiny_cfg)
    tiny_cfg.MUTUALNET.LOSS_WEIGHTS.FEATURE = 0.5
    with pytest.raises(ConfigError, match="FEATURE is 0.5; expected 0 for a MutualClassifier"):
        check_config(tiny_cfg)


def test_a_backbone_without_a_pyramid_has_no_corresponding_levels(tiny_cfg):
    tiny_cfg.merge_from_list(
        [
            *("MODEL.BACKBONE.NAME", tiny_cfg.MODEL.FPN.BOTTOM_UP, "MUTUALNET.SCOPE", "backbone"),
            *("MODEL.RPN.IN_FEATURES", ["res4"], "MODEL.ROI_HEADS.IN_FEATURES", ["res4"]),
            *("MODEL.ANCHOR_GENERATOR.SIZES", [[8, 16]]),
        ]
    )
    build_model(tiny_cfg)
    tiny_cfg.MUTUALNET.LOSS_WEIGHTS.FEATURE = 1.0
    message = r"FEATURE is 1; expected 0 over a MobileNetV2 that gives res2 \(24 channels\), res3"
    with pytest.raises(ConfigError, match=message):
        build_model(tiny_cfg)


def test_a_single_map_has_no_corresponding_level(tiny_cfg):
    tiny_cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    backbone = build_backbone(tiny_cfg)  # res4 alone, by Detectron2's default
    features.check_pyramid(backbone, 0.0)
    with pytest.raises(ConfigError, match=r"over a ResNet that gives res4 \(1024 channels\)"):
        features.check_pyramid(backbone, 0.5)
