"""Tiny detectors for the tests of the evaluation, plain and slimmable."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from mutualnet_det import add_mutualnet_config


def tiny_config(*overrides):
    """Detectron2's own Mask R-CNN, two classes, as small as it gets."""
    cfg = get_cfg()
    add_mutualnet_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "MODEL.MASK_ON", True, "MODEL.WEIGHTS", ""),
            *("MODEL.META_ARCHITECTURE", "GeneralizedRCNN"),
            *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
            *("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
            *("MODEL.RESNETS.WIDTH_PER_GROUP", 4),
            *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.NORM", "BN"),
            *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.FPN.OUT_CHANNELS", 16),
            *("MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64], [128], [256]]),
            *("MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"]),
            *("MODEL.RPN.PRE_NMS_TOPK_TEST", 50, "MODEL.RPN.POST_NMS_TOPK_TEST", 20),
            *("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_HEADS.NUM_CLASSES", 2),
            *("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
            *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", 2),
            *("MODEL.ROI_BOX_HEAD.FC_DIM", 32, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7),
            *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
            *("MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16),
            *("INPUT.MAX_SIZE_TEST", 160, "MUTUALNET.RESOLUTIONS", [96, 64]),
            *overrides,
        ]
    )
    return cfg


SLIMMABLE = (
    *("MODEL.META_ARCHITECTURE", "MutualRCNN"),
    *("MODEL.BACKBONE.NAME", "build_slimmable_fpn_backbone"),
    *("MODEL.RPN.HEAD_NAME", "SlimmableRPNHead"),
    *("MODEL.ROI_HEADS.NAME", "SlimmableROIHeads"),
    *("MODEL.ROI_BOX_HEAD.NAME", "SlimmableFastRCNNConvFCHead"),
    *("MODEL.ROI_MASK_HEAD.NAME", "SlimmableMaskRCNNConvUpsampleHead"),
)


@pytest.fixture
def make_config():
    return tiny_config


@pytest.fixture
def make_slimmable_config():
    return lambda *overrides: tiny_config(*SLIMMABLE, *overrides)


@pytest.fixture
def make_model():
    """Builds a model with fixed random weights, in evaluation mode."""

    def make(cfg):
        torch.manual_seed(0)
        return build_model(cfg).eval()

    return make
