"""Networks that Detectron2 builds from a config; importing this registers their parts."""

from .backbones import (
    build_slimmable_mobilenet_v1_backbone,
    build_slimmable_mobilenet_v2_backbone,
    build_slimmable_resnet_backbone,
    build_slimmable_vgg16_bn_backbone,
    build_slimmable_wide_resnet_backbone,
)
from .classifier import MutualClassifier
from .fpn import (
    SlimmableFPN,
    build_slimmable_fpn_backbone,
    build_slimmable_retinanet_fpn_backbone,
)
from .heads import (
    SlimmableCascadeROIHeads,
    SlimmableFastRCNNConvFCHead,
    SlimmableKRCNNConvDeconvUpsampleHead,
    SlimmableMaskRCNNConvUpsampleHead,
    SlimmableROIHeads,
    SlimmableRPNHead,
)
from .meta_arch import MutualRCNN, Teacher
from .panoptic import MutualPanopticFPN
from .retinanet import MutualRetinaNet, SlimmableRetinaNetHead
from .semantic import MutualSemanticSegmentor, SlimmableSemSegFPNHead

__all__ = [
    "MutualClassifier",
    "MutualPanopticFPN",
    "MutualRCNN",
    "MutualRetinaNet",
    "MutualSemanticSegmentor",
    "SlimmableCascadeROIHeads",
    "SlimmableFPN",
    "SlimmableFastRCNNConvFCHead",
    "SlimmableKRCNNConvDeconvUpsampleHead",
    "SlimmableMaskRCNNConvUpsampleHead",
    "SlimmableROIHeads",
    "SlimmableRPNHead",
    "SlimmableRetinaNetHead",
    "SlimmableSemSegFPNHead",
    "Teacher",
    "build_slimmable_fpn_backbone",
    "build_slimmable_mobilenet_v1_backbone",
    "build_slimmable_mobilenet_v2_backbone",
    "build_slimmable_resnet_backbone",
    "build_slimmable_retinanet_fpn_backbone",
    "build_slimmable_vgg16_bn_backbone",
    "build_slimmable_wide_resnet_backbone",
]
