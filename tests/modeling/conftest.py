"""Detectors with weights far from zero, and the plain networks they are compared with."""

import math

import pytest
import torch
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import (
    FPN,
    Backbone,
    GeneralizedRCNN,
    build_model,
    build_proposal_generator,
    build_roi_heads,
)
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.utils.events import EventStorage
from torch import nn
from torchvision.models import mobilenet_v2
from torchvision.models._utils import _make_divisible

from mutualnet_det.data.views import view_at
from mutualnet_det.slimmable import Calibrations, at_width, sliced

# Of Detectron2's features, where MobileNetV2 is tapped: stride, last block and channels at width 1.
TAPS = {"res2": (4, 3, 24), "res3": (8, 6, 32), "res4": (16, 13, 96), "res5": (32, 17, 320)}

PLAIN_ROI_HEADS = {
    "SlimmableROIHeads": "StandardROIHeads",
    "SlimmableCascadeROIHeads": "CascadeROIHeads",
}


# What makes a config of COCO small.
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.FPN.OUT_CHANNELS", 32),
    *("MUTUALNET.RESOLUTIONS", (64, 48, 32), "MUTUALNET.GRID.WIDTHS", (0.25, 1.0)),
    *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MAX_SIZE_TRAIN", 128),
    *("INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 128),
]


class TorchvisionMobileNetV2(Backbone):
    """torchvision's network of one width, up to its last block."""

    def __init__(self, width):
        super().__init__()
        self.features = mobilenet_v2(width_mult=width).features[:18]
        # At the smallest widths torchvision adds a shortcut where 32 and 16 channels are both 8.
        # A slimmable network has its shortcuts at every width or at none.
        self.features[1].use_res_connect = False
        self.width = width

    def forward(self, x):
        tensors = {}
        for index, block in enumerate(self.features):
            x = block(x)
            tensors |= {name: x for name, (_, last, _) in TAPS.items() if last == index}
        return tensors

    def output_shape(self):
        return {
            name: ShapeSpec(channels=_make_divisible(base * self.width, 8), stride=stride)
            for name, (stride, _, base) in TAPS.items()
        }


def channels(base, width):
    return _make_divisible(base * width, 8)


@pytest.fixture
def make_small_cfg(tiny_cfg, request):
    """``make_small_cfg(name, overrides)``: a config of COCO, small: 64 px, CPU. Not frozen."""

    def make(name, overrides):
        output_dir = tiny_cfg.OUTPUT_DIR
        tiny_cfg.merge_from_file(str(request.config.rootpath / f"configs/{name}.yaml"))
        tiny_cfg.merge_from_list([*SMALL, "OUTPUT_DIR", output_dir, *overrides])
        return tiny_cfg

    return make


@pytest.fixture
def torchvision_backbone():
    """Makes torchvision's MobileNetV2 of a width, in evaluation mode."""
    return lambda width: TorchvisionMobileNetV2(width).eval()


@pytest.fixture
def build_plain_fpn():
    """
    ``build_plain_fpn(cfg, width, make_top_block)``: Detectron2's own pyramid over torchvision's
    MobileNetV2, at the channel counts that the config's scope has at a width. Nothing of the
    project is in it. ``make_top_block`` takes the channels of a level.
    """

    def build(cfg, width, make_top_block=lambda _: LastLevelMaxPool()):
        full, scope = cfg.MUTUALNET.WIDTH_RANGE[1], cfg.MUTUALNET.SCOPE
        base, norm = cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM
        inner = channels(base, full if scope == "backbone" else width)
        outer = channels(base, width if scope == "heads" else full)
        features = cfg.MODEL.FPN.IN_FEATURES
        backbone = FPN(
            TorchvisionMobileNetV2(width), features, inner, norm, top_block=make_top_block(outer)
        )
        names = [f"fpn_output{feature[-1]}" for feature in features]
        for name in names:
            # Detectron2's FPN has one number of channels for its inside and its outputs.
            output = Conv2d(inner, outer, 3, padding=1, bias=not norm, norm=get_norm(norm, outer))
            setattr(backbone, name, output)
        backbone.output_convs = [getattr(backbone, name) for name in names[::-1]]
        backbone._out_feature_channels = dict.fromkeys(backbone._out_feature_channels, outer)
        return backbone

    return build


@pytest.fixture
def build_plain(build_plain_fpn):
    """
    ``build_plain(cfg, width)``: Detectron2's own R-CNN, with the config's heads, over
    :func:`build_plain_fpn`.
    """

    def build(cfg, width):
        scope, backbone = cfg.MUTUALNET.SCOPE, build_plain_fpn(cfg, width)
        cfg = cfg.clone()
        cfg.merge_from_list(
            [
                *("MODEL.RPN.HEAD_NAME", "StandardRPNHead"),
                *("MODEL.ROI_HEADS.NAME", PLAIN_ROI_HEADS[cfg.MODEL.ROI_HEADS.NAME]),
                *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
                *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
                *("MODEL.ROI_KEYPOINT_HEAD.NAME", "KRCNNConvDeconvUpsampleHead"),
            ]
        )
        if scope == "heads":
            box, mask = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD
            box.FC_DIM, box.CONV_DIM = channels(box.FC_DIM, width), channels(box.CONV_DIM, width)
            mask.CONV_DIM = channels(mask.CONV_DIM, width)
            keypoint = cfg.MODEL.ROI_KEYPOINT_HEAD
            keypoint.CONV_DIMS = [channels(c, width) for c in keypoint.CONV_DIMS]
        shapes = backbone.output_shape()
        return GeneralizedRCNN(
            backbone=backbone,
            proposal_generator=build_proposal_generator(cfg, shapes),
            roi_heads=build_roi_heads(cfg, shapes),
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
            input_format=cfg.INPUT.FORMAT,
        ).eval()

    return build


@pytest.fixture
def build_random():
    """
    ``build_random(cfg, seed)``: the config's model, in evaluation mode, with scales, shifts, biases
    and predictors that a mistake in their slicing would show: Detectron2 starts them at 0 and 1.
    """

    def build(cfg, seed=0):
        torch.manual_seed(seed)
        model = build_model(cfg)
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
            elif getattr(module, "bias", None) is not None:
                nn.init.normal_(module.bias, std=0.1)
            if name.endswith(
                ("objectness_logits", "cls_score", "mask_head.predictor", "score_lowres")
            ):
                nn.init.normal_(module.weight, std=0.2)
            elif name.endswith(("anchor_deltas", "bbox_pred")):
                nn.init.normal_(module.weight, std=0.02)
        return model.eval()

    return build


@pytest.fixture
def beside_plain():
    """
    ``beside_plain(model, plain, point, batch, compute)``: what ``compute`` gives for a slimmable
    model at an operating point, calibrated on a batch, and for a plain one with its sliced weights.
    """

    def both(model, plain, point, batch, compute):
        calibrations = Calibrations(model)
        calibrations.calibrate(point, [batch])
        with torch.no_grad(), calibrations.at(point):
            plain.load_state_dict(sliced(model).state_dict(), strict=True)
            computed = compute(model)
        with torch.no_grad():
            return computed, compute(plain)

    return both


@pytest.fixture
def run():
    """``run(function, *args, seed)``: a training pass, with the storage that Detectron2 logs to."""

    def run_seeded(function, *args, seed=0):
        torch.manual_seed(seed)
        with EventStorage():
            return function(*args)

    return run_seeded


@pytest.fixture
def study(run):
    """``study(model, batch, teacher, width, resolution)``: a sub-network's training pass."""

    def study_at(model, batch, teacher, width=0.4, resolution=48):
        with at_width(model, width, track=False):
            return run(model.study, view_at(batch, resolution, 128), teacher, seed=1)

    return study_at


@pytest.fixture(scope="session")
def make_anchors():
    """
    ``make_anchors(generator, size)``: the cells (height, width) and the anchors of each level, of
    an image of a size that is padded to a multiple of 128 px.
    """

    def make(generator, size):
        grids = [
            tuple(math.ceil(side / 128) * 128 // stride for side in size)
            for stride in generator.strides
        ]
        return grids, generator([torch.zeros(1, 1, *grid) for grid in grids])

    return make
