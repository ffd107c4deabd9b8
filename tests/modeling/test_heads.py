"""Slimmable RPN, box, mask and keypoint heads against Detectron2's at the sliced channel counts."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    KRCNNConvDeconvUpsampleHead,
    MaskRCNNConvUpsampleHead,
)
from torch import nn

from mutualnet_det.modeling import (
    SlimmableFastRCNNConvFCHead,
    SlimmableKRCNNConvDeconvUpsampleHead,
    SlimmableMaskRCNNConvUpsampleHead,
    SlimmableRPNHead,
)
from mutualnet_det.slimmable import (
    Calibrations,
    Channels,
    OperatingPoint,
    SlimmableLayer,
    Width,
    at_width,
    sliced,
)

WIDTHS = [0.25, 0.4, 0.7, 1.0]
LEVEL = Channels(64)


def rpn_head(in_dim=LEVEL, **options):
    return SlimmableRPNHead(in_channels=64, num_anchors=3, in_dim=in_dim, width=Width(), **options)


def box_head(conv_dims=(), fc_dims=(128, 96), conv_norm="", in_dim=LEVEL):
    return SlimmableFastRCNNConvFCHead(
        ShapeSpec(channels=64, height=7, width=7),
        conv_dims=list(conv_dims),
        fc_dims=list(fc_dims),
        conv_norm=conv_norm,
        in_dim=in_dim,
        width=Width(),
    )


def mask_head(conv_dims=(48, 48, 32), conv_norm="", in_dim=LEVEL):
    return SlimmableMaskRCNNConvUpsampleHead(
        ShapeSpec(channels=64, height=14, width=14),
        num_classes=5,
        conv_dims=list(conv_dims),
        conv_norm=conv_norm,
        in_dim=in_dim,
        width=Width(),
    )


def keypoint_head(conv_dims=(48, 32), in_dim=LEVEL):
    return SlimmableKRCNNConvDeconvUpsampleHead(
        ShapeSpec(channels=64, height=14, width=14),
        num_keypoints=5,
        conv_dims=list(conv_dims),
        in_dim=in_dim,
        width=Width(),
    )


def randomise(head):
    torch.manual_seed(0)
    for module in head.modules():
        if getattr(module, "weight", None) is not None:
            nn.init.normal_(module.weight, std=0.1)
            nn.init.normal_(module.bias, std=0.1) if module.bias is not None else None
    return head.eval()


@pytest.mark.parametrize("width", WIDTHS)
def test_rpn_head_is_detectron2s_of_that_width(width):
    head = randomise(rpn_head())
    count = LEVEL.at(width)
    expected = StandardRPNHead(in_channels=count, num_anchors=3)
    levels = [torch.randn(2, count, size, size) for size in (8, 4)]
    with torch.no_grad(), at_width(head, width):
        expected.load_state_dict(sliced(head).state_dict(), strict=True)
        for actual, reference in zip(head(levels), expected(levels), strict=True):
            for left, right in zip(actual, reference, strict=True):
                assert (left - right).abs().max() < 1e-5
        assert [x.shape[1] for x in (head(levels)[0][0], head(levels)[1][0])] == [3, 12]


@pytest.mark.parametrize(("conv_dims", "fc_dims"), [((), (128, 96)), ((32, 48), (128,))])
@pytest.mark.parametrize("width", WIDTHS)
def test_box_head_is_detectron2s_of_that_width(width, conv_dims, fc_dims):
    head = randomise(box_head(conv_dims, fc_dims))
    count = LEVEL.at(width)
    expected = FastRCNNConvFCHead(
        ShapeSpec(channels=count, height=7, width=7),
        conv_dims=[Channels(c).at(width) for c in conv_dims],
        fc_dims=[Channels(c).at(width) for c in fc_dims],
    )
    pooled = torch.randn(6, count, 7, 7)
    with torch.no_grad(), at_width(head, width):
        expected.load_state_dict(sliced(head).state_dict(), strict=True)
        assert (head(pooled) - expected(pooled)).abs().max() < 1e-5
        assert head(pooled).shape == (6, head.out_dim.at(width))


@pytest.mark.parametrize("conv_dims", [(48, 48, 32), (32,)])
@pytest.mark.parametrize("width", WIDTHS)
def test_mask_head_is_detectron2s_of_that_width(width, conv_dims):
    head = randomise(mask_head(conv_dims))
    count = LEVEL.at(width)
    expected = MaskRCNNConvUpsampleHead(
        ShapeSpec(channels=count, height=14, width=14),
        num_classes=5,
        conv_dims=[Channels(c).at(width) for c in conv_dims],
    )
    pooled = torch.randn(3, count, 14, 14)
    with torch.no_grad(), at_width(head, width):
        expected.load_state_dict(sliced(head).state_dict(), strict=True)
        assert (head.layers(pooled) - expected.layers(pooled)).abs().max() < 1e-5
        assert head.layers(pooled).shape == (3, 5, 28, 28)


@pytest.mark.parametrize("conv_dims", [(48, 32), ()])
@pytest.mark.parametrize("width", WIDTHS)
def test_keypoint_head_is_detectron2s_of_that_width(width, conv_dims):
    head = randomise(keypoint_head(conv_dims))
    count = LEVEL.at(width)
    expected = KRCNNConvDeconvUpsampleHead(
        ShapeSpec(channels=count, height=14, width=14),
        num_keypoints=5,
        conv_dims=[Channels(c).at(width) for c in conv_dims],
    )
    pooled = torch.randn(3, count, 14, 14)
    with torch.no_grad(), at_width(head, width):
        expected.load_state_dict(sliced(head).state_dict(), strict=True)
        assert (head.layers(pooled) - expected.layers(pooled)).abs().max() < 1e-5
        assert head.layers(pooled).shape == (3, 5, 56, 56)
        assert head.layers(pooled[:0]).shape == (0, 5, 56, 56)


@pytest.mark.parametrize("make", [box_head, mask_head])
def test_norms_in_heads_slim(make):
    head = randomise(make((32, 48), conv_norm="BN"))
    calibrations = Calibrations(head)
    point = OperatingPoint(0.4, 64)
    side = 7 if make is box_head else 14
    pooled = torch.randn(4, LEVEL.at(0.4), side, side)
    run = head if make is box_head else head.layers
    calibrations.calibrate(point, [pooled], run)
    with torch.no_grad(), calibrations.at(point):
        plain = sliced(head)
        assert not any(isinstance(m, SlimmableLayer) for m in plain.modules())
        expected = (plain if make is box_head else plain.layers)(pooled)
        torch.testing.assert_close(run(pooled), expected)


@pytest.mark.parametrize("make", [box_head, mask_head])
@pytest.mark.parametrize("training", [True, False])
def test_no_proposals_are_no_problem(make, training):
    head = make((32, 48), conv_norm="BN").train(training)
    with at_width(head, 0.25):
        if make is box_head:
            assert head(torch.zeros(0, 16, 7, 7)).shape == (0, 24)
        else:
            assert head.layers(torch.zeros(0, 16, 14, 14)).shape == (0, 5, 28, 28)


@pytest.mark.parametrize(
    ("slimmable", "plain"),
    [
        (rpn_head(), rpn_head(in_dim=None)),
        (box_head((32, 48)), box_head((32, 48), in_dim=None)),
        (mask_head(), mask_head(in_dim=None)),
        (keypoint_head(), keypoint_head(in_dim=None)),
    ],
    ids=["rpn", "box", "mask", "keypoint"],
)
def test_state_dict_is_detectron2s(slimmable, plain):
    assert not any(isinstance(m, SlimmableLayer) for m in plain.modules())
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    assert {name: tensor.shape for name, tensor in slimmable.state_dict().items()} == shapes


def test_detectron2s_lists_of_layers_hold_the_slimmable_ones():
    box, mask = box_head((32, 48)), mask_head()
    assert box.conv_norm_relus == [box.conv1, box.conv2]
    assert box.fcs == [box.fc1, box.fc2]
    assert mask.conv_norm_relus == [mask.mask_fcn1, mask.mask_fcn2]


@pytest.mark.parametrize("conv_dims", [[-1, -1], [32]])
def test_rpn_head_of_other_hidden_layers_is_an_error(conv_dims):
    with pytest.raises(ValueError, match=r"MODEL.RPN.CONV_DIMS must be \[-1\]"):
        rpn_head(conv_dims=conv_dims)


def test_norm_that_cannot_slim_is_an_error():
    with pytest.raises(TypeError, match="No slimmable twin for a GroupNorm.*MUTUALNET.NORM"):
        mask_head((64, 64), conv_norm="GN")


def test_box_head_without_linear_layer_is_an_error(tiny_cfg):
    tiny_cfg.merge_from_list(["MODEL.ROI_BOX_HEAD.NUM_FC", 0, "MODEL.ROI_BOX_HEAD.NUM_CONV", 1])
    with pytest.raises(ValueError, match="MODEL.ROI_BOX_HEAD.NUM_FC is 0"):
        build_model(tiny_cfg)


HEADS = ["proposal_generator", "roi_heads"]


CASCADE = [
    *("MODEL.ROI_HEADS.NAME", "SlimmableCascadeROIHeads"),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
]
KEYPOINT = [
    *("MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [32, 32]),
    *("MODEL.ROI_KEYPOINT_HEAD.NAME", "SlimmableKRCNNConvDeconvUpsampleHead"),
]


@pytest.mark.parametrize("overrides", [[], CASCADE + KEYPOINT], ids=["standard", "cascade"])
@pytest.mark.parametrize("scope", ["backbone", "neck", "heads"])
def test_only_the_scope_heads_slims_heads(tiny_cfg, scope, overrides):
    tiny_cfg.MUTUALNET.SCOPE = scope
    tiny_cfg.merge_from_list(overrides)
    model = build_model(tiny_cfg)
    for part in HEADS:
        layers = [
            module
            for module in model.get_submodule(part).modules()
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
        ]
        assert len(layers) >= 3
        assert {isinstance(layer, SlimmableLayer) for layer in layers} == {scope == "heads"}


def test_every_scope_has_detectron2s_state_dict(tiny_cfg, build_plain):
    expected = build_plain(tiny_cfg, 1.0).state_dict()
    for scope in ("backbone", "neck", "heads"):
        tiny_cfg.MUTUALNET.SCOPE = scope
        build_model(tiny_cfg).load_state_dict(expected, strict=True)


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
def test_predictions_keep_their_outputs(tiny_cfg, width):
    tiny_cfg.merge_from_list(["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True])
    tiny_cfg.merge_from_list(["MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True])
    model = build_model(tiny_cfg)
    heads = model.roi_heads
    with at_width(model, width):
        hidden = heads.box_head.out_dim.at(width)
        scores, deltas = heads.box_predictor(torch.randn(2, hidden))
        assert (scores.shape, deltas.shape) == ((2, 4), (2, 4))
        count = Channels(32).at(width)
        assert heads.mask_head.layers(torch.randn(2, count, 14, 14)).shape == (2, 1, 28, 28)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("MODEL.RPN.HEAD_NAME", "StandardRPNHead"),
        ("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
        ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
        ("MODEL.ROI_KEYPOINT_HEAD.NAME", "KRCNNConvDeconvUpsampleHead"),
        ("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
        ("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
    ],
)
def test_plain_head_under_scope_heads_is_an_error(tiny_cfg, key, name):
    tiny_cfg.merge_from_list([*KEYPOINT, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True])
    tiny_cfg.merge_from_list([key, name])
    with pytest.raises(ValueError, match=f"SCOPE is 'heads', but {key} builds a"):
        build_model(tiny_cfg)
    for scope in ("neck", "backbone"):
        tiny_cfg.MUTUALNET.SCOPE = scope
        build_model(tiny_cfg)
