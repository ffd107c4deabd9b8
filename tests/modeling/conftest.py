"""Detectors with weights far from zero, and the plain networks they are compared with."""

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
from torch import nn
from torchvision.models import mobilenet_v2
from torchvision.models._utils import _make_divisible

# Of Detectron2's features, where MobileNetV2 is tapped: stride, last block and channels at width 1.
TAPS = {"res2": (4, 3, 24), "res3": (8, 6, 32), "res4": (16, 13, 96), "res5": (32, 17, 320)}

PLAIN_ROI_HEADS = {
    "SlimmableROIHeads": "StandardROIHeads",
    "SlimmableCascadeROIHeads": "CascadeROIHeads",
}


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
        found = {}
        for index, block in enumerate(self.features):
            x = block(x)
            found |= {name: x for name, (_, last, _) in TAPS.items() if last == index}
        return found

    def output_shape(self):
        return {
            name: ShapeSpec(channels=_make_divisible(base * self.width, 8), stride=stride)
            for name, (stride, _, base) in TAPS.items()
        }


def channels(base, width):
    return _make_divisible(base * width, 8)


@pytest.fixture
def torchvision_backbone():
    """Makes torchvision's MobileNetV2 of a width, in evaluation mode."""
    return lambda width: TorchvisionMobileNetV2(width).eval()


@pytest.fixture
def build_plain():
    """
    ``build_plain(cfg, width)``: Detectron2's own R-CNN, with the config's heads, over torchvision's
    MobileNetV2, at the channel counts that the config's scope has at a width. Nothing of the
    project is in it.
    """

    def build(cfg, width):
        full, scope = cfg.MUTUALNET.WIDTH_RANGE[1], cfg.MUTUALNET.SCOPE
        base = cfg.MODEL.FPN.OUT_CHANNELS
        inner = channels(base, full if scope == "backbone" else width)
        outer = channels(base, width if scope == "heads" else full)
        norm = cfg.MODEL.FPN.NORM
        backbone = FPN(
            TorchvisionMobileNetV2(width), list(TAPS), inner, norm, top_block=LastLevelMaxPool()
        )
        for level in range(2, 6):
            # Detectron2's FPN has one number of channels for its inside and its outputs.
            output = Conv2d(inner, outer, 3, padding=1, bias=not norm, norm=get_norm(norm, outer))
            setattr(backbone, f"fpn_output{level}", output)
        backbone.output_convs = [getattr(backbone, f"fpn_output{k}") for k in range(5, 1, -1)]
        backbone._out_feature_channels = dict.fromkeys(backbone._out_feature_channels, outer)

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
