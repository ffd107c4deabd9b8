"""Slimmable backbones, one file per family, with features at strides 4, 8, 16 and 32."""

from .base import SlimmableBackbone
from .mobilenet_v2 import MobileNetV2, build_slimmable_mobilenet_v2_backbone

__all__ = ["MobileNetV2", "SlimmableBackbone", "build_slimmable_mobilenet_v2_backbone"]
