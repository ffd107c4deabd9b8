"""Starts from networks of other classes and heads: what fits goes on, class by class."""

import logging

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.keypoint_head import KRCNNConvDeconvUpsampleHead
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead

from mutualnet_det.checkpoint import CheckpointError, MutualCheckpointer
from mutualnet_det.checkpoint.starting import start_state
from mutualnet_det.modeling.backbones.mobilenet_v1 import MobileNetV1
from mutualnet_det.modeling.backbones.mobilenet_v2 import MobileNetV2
from mutualnet_det.modeling.backbones.resnet import ResNet
from mutualnet_det.modeling.backbones.vgg import VGG16
from mutualnet_det.modeling.build import build_network
from mutualnet_det.slimmable import Width

LEARNT = ["cat", "dog", "owl"]
NAMES = ["eel", "owl", "cat", "bee"]
# The numbers of the classes of both lists, in each.
KEPT = {1: 2, 2: 0}


def box_head(num_classes, agnostic=False):
    shape, transform = ShapeSpec(channels=6), Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    return FastRCNNOutputLayers(
        shape, box2box_transform=transform, num_classes=num_classes, cls_agnostic_bbox_reg=agnostic
    )


def mask_head(num_classes):
    return MaskRCNNConvUpsampleHead(ShapeSpec(channels=6), num_classes=num_classes, conv_dims=[6])


def keypoint_head(num_keypoints):
    return KRCNNConvDeconvUpsampleHead(
        ShapeSpec(channels=6), num_keypoints=num_keypoints, conv_dims=[6]
    )


def retinanet_head(num_classes):
    return RetinaNetHead(
        input_shape=[ShapeSpec(channels=6)], num_classes=num_classes, num_anchors=3, conv_dims=[6]
    )


def semantic_head(num_classes):
    return SemSegFPNHead(
        {"p2": ShapeSpec(channels=6, stride=4)},
        num_classes=num_classes,
        conv_dims=6,
        common_stride=4,
        norm="",
    )


def classifier(num_classes):
    return MobileNetV2(Width(0.25, 1.0), num_classes=num_classes, out_features=("logits",))


# For each kind of head the key of its names, a builder, and its outputs as (K, ...).
X = torch.randn(2, 6, 5, 5, generator=torch.Generator().manual_seed(0))
VECTORS = X[:, :, 0, 0]
HEADS = {
    "class scores": ("thing_classes", box_head, lambda m: m(VECTORS)[0].T[:-1]),
    "boxes": (
        "thing_classes",
        box_head,
        lambda m: m(VECTORS)[1].unflatten(1, (-1, 4)).transpose(0, 1),
    ),
    "masks": ("thing_classes", mask_head, lambda m: m.predictor(X).transpose(0, 1)),
    "keypoints": ("keypoint_names", keypoint_head, lambda m: m.score_lowres(X).transpose(0, 1)),
    # Of each cell of the map, anchor by anchor, as Detectron2 reads them.
    "RetinaNet": (
        "thing_classes",
        retinanet_head,
        lambda m: m.cls_score(X).unflatten(1, (3, -1)).permute(2, 0, 1, 3, 4),
    ),
    "pixels": ("stuff_classes", semantic_head, lambda m: m.predictor(X).transpose(0, 1)),
    "images": (
        "classes",
        classifier,
        lambda m: m.eval().classifier(torch.arange(1280.0)[None]).T,
    ),
}


def build(builder, count, seed):
    torch.manual_seed(seed)
    head = builder(count)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return head


@torch.no_grad()
@pytest.mark.parametrize("kind", HEADS)
def test_a_class_keeps_what_was_learnt_for_its_name(kind):
    key, builder, outputs = HEADS[kind]
    old, new = build(builder, len(LEARNT), 0), build(builder, len(NAMES), 1)
    learnt, fresh = outputs(old), outputs(new)
    new.load_state_dict(start_state(old.state_dict(), new, {key: LEARNT}, {key: NAMES}, "x.pth"))
    for number, value in enumerate(outputs(new)):
        torch.testing.assert_close(value, learnt[KEPT[number]] if number in KEPT else fresh[number])


def test_the_background_stays_learnt():
    old, new = build(box_head, 3, 0), build(box_head, 4, 1)
    names = {"thing_classes": LEARNT}, {"thing_classes": NAMES}
    state = start_state(old.state_dict(), new, *names, "x.pth")
    assert torch.equal(state["cls_score.weight"][-1], old.cls_score.weight[-1])


def test_boxes_of_all_classes_alike_stay():
    old, new = box_head(3, agnostic=True), box_head(4, agnostic=True)
    names = {"thing_classes": LEARNT}, {"thing_classes": NAMES}
    state = start_state(old.state_dict(), new, *names, "x.pth")
    assert torch.equal(state["bbox_pred.weight"], old.bbox_pred.weight)
    assert len(state["cls_score.bias"]) == 5


@pytest.mark.parametrize("names", [({}, {"thing_classes": NAMES}), ({"thing_classes": LEARNT}, {})])
def test_classes_without_names_stay_only_if_there_are_as_many(names, caplog):
    caplog.set_level(logging.INFO, "mutualnet_det")
    old, same, other = build(box_head, 3, 0), build(box_head, 3, 1), build(box_head, 4, 2)
    state = start_state(old.state_dict(), same, *names, "x.pth")
    assert torch.equal(state["cls_score.weight"], old.cls_score.weight) and not caplog.messages
    state = start_state(old.state_dict(), other, *names, "x.pth")
    assert torch.equal(state["cls_score.weight"], other.cls_score.weight)
    assert "not all thing_classes are known by name: cls_score.weight" in caplog.text


def test_a_classifier_starts_from_features_alone(caplog):
    caplog.set_level(logging.INFO, "mutualnet_det")
    old, new = build(classifier, 1000, 0), build(classifier, 3, 1)
    learnt, fresh = old.state_dict(), new.state_dict()
    features = {key: value for key, value in learnt.items() if key in old.feature_entries()}
    state = start_state(features, new, {}, {"classes": LEARNT}, "x.pth")
    assert state.keys() == fresh.keys() and len(features) == len(fresh) - 8
    for key, value in state.items():
        assert torch.equal(value, (learnt if key in features else fresh)[key]), key
    assert "new: the classifier" in caplog.text
    # With a classifier of other classes, the layers before it stay.
    state = start_state(learnt, new, {}, {"classes": LEARNT}, "x.pth")
    others = [key for key, value in state.items() if value is not learnt[key]]
    assert others == ["classifier.1.weight", "classifier.1.bias"]


@pytest.mark.parametrize("network", [MobileNetV1, MobileNetV2, ResNet, VGG16])
def test_features_are_all_but_the_classifier(network):
    with torch.device("meta"):
        whole = network(Width(0.25, 1.0), num_classes=2, out_features=("logits",))
        features = network(Width(0.25, 1.0))
    assert whole.feature_entries() == set(features.state_dict())


# Whole networks -----------------------------------------------------------------------------------


@pytest.fixture
def start(tiny_cfg, tmp_path, caplog):
    """
    ``start(before, after, learnt, names)``: a detector that starts from another, each with some
    options of a config and its classes' names; both, and what the log says.
    """
    caplog.set_level(logging.INFO, "mutualnet_det")

    def build_one(seed, options, names):
        cfg = tiny_cfg.clone()
        cfg.merge_from_list([*options, "MODEL.ROI_HEADS.NUM_CLASSES", len(names)])
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (f"start_{seed}",), ()
        MetadataCatalog.pop(f"start_{seed}", None)
        MetadataCatalog.get(f"start_{seed}").thing_classes = list(names)
        torch.manual_seed(seed)
        return build_network(cfg), cfg

    def make(before=(), after=(), learnt=LEARNT, names=NAMES):
        old, cfg = build_one(0, before, learnt)
        MutualCheckpointer(old, cfg, str(tmp_path)).save("old")
        new, cfg = build_one(1, after, names)
        fresh = {key: value.clone() for key, value in new.state_dict().items()}
        checkpointer = MutualCheckpointer(new, cfg)
        checkpointer.load(str(tmp_path / "old.pth"), checkpointables=[])
        return old.state_dict(), fresh, new.state_dict(), caplog.text, (checkpointer, tmp_path)

    return make


def test_a_detector_starts_from_one_of_other_classes(start):
    old, fresh, new, log, _ = start()
    heads = ("cls_score", "bbox_pred", "mask_head.predictor")
    for key, value in new.items():
        if not any(head in key for head in heads):
            assert torch.equal(value, old[key]), key
    key = "roi_heads.mask_head.predictor.weight"
    assert torch.equal(new[key][1], old[key][2]) and torch.equal(new[key][0], fresh[key][0])
    for text in ("old.pth", "kept: 'owl', 'cat'", "new: 'eel', 'bee'", "left out: 'dog'"):
        assert text in log


@pytest.mark.parametrize("masks_before", [True, False])
def test_a_head_that_one_side_lacks(start, masks_before):
    before = ("MODEL.MASK_ON", masks_before)
    old, fresh, new, log, _ = start(before, ("MODEL.MASK_ON", not masks_before), names=LEARNT)
    for key, value in new.items():
        assert torch.equal(value, fresh[key] if ".mask_head." in key else old[key]), key
    assert f"{'left out' if masks_before else 'new'}: roi_heads.mask_head" in log
    assert "cls_score" not in log


def test_one_box_head_becomes_a_cascade(start):
    cascade = ("MODEL.ROI_HEADS.NAME", "SlimmableCascadeROIHeads")
    cascade += ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
    old, fresh, new, log, _ = start((), cascade)
    key = "roi_heads.box_head.0.fc1.weight"
    assert torch.equal(new[key], fresh[key])
    key = "proposal_generator.rpn_head.conv.weight"
    assert torch.equal(new[key], old[key])
    assert "new: roi_heads.box_predictor" in log and "left out: roi_heads.box_predictor" in log


@pytest.mark.parametrize(
    ("options", "entry"),
    [
        (("MODEL.ROI_BOX_HEAD.FC_DIM", 24), "box_head.fc1"),
        (("MODEL.ROI_MASK_HEAD.NUM_CONV", 2), "mask_fcn2"),
        (("MODEL.FPN.OUT_CHANNELS", 24), "fpn_lateral"),
        (("MODEL.FPN.NORM", "BN"), "fpn_lateral"),
    ],
)
def test_what_does_not_fit_for_another_reason_is_refused(start, options, entry):
    with pytest.raises(CheckpointError, match=f"another architecture.*{entry}"):
        start((), options)


def test_other_classes_start_and_do_not_go_on(start):
    *_, (checkpointer, folder) = start(names=[*LEARNT[1:], LEARNT[0]])
    for how in ({}, {"checkpointables": [], "whole": True}):
        with pytest.raises(CheckpointError) as error:
            checkpointer.load(str(folder / "old.pth"), **how)
        for text in ("old.pth", "'cat'", "another order", "MODEL.WEIGHTS"):
            assert text.strip("'") in str(error.value)
