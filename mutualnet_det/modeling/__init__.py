"""What Detectron2 builds from a config; importing it registers the parts."""

from .backbones import build_slimmable_mobilenet_v2_backbone
from .fpn import SlimmableFPN, build_slimmable_fpn_backbone
from .heads import (
    SlimmableFastRCNNConvFCHead,
    SlimmableMaskRCNNConvUpsampleHead,
    SlimmableROIHeads,
    SlimmableRPNHead,
)
from .meta_arch import MutualRCNN, Teacher

__all__ = [
    "MutualRCNN",
    "SlimmableFPN",
    "SlimmableFastRCNNConvFCHead",
    "SlimmableMaskRCNNConvUpsampleHead",
    "SlimmableROIHeads",
    "SlimmableRPNHead",
    "Teacher",
    "build_slimmable_fpn_backbone",
    "build_slimmable_mobilenet_v2_backbone",
]
