"""Slimmable backbones, one file per family, with features at strides 4, 8, 16 and 32."""

from .base import SlimmableBackbone
from .mobilenet_v1 import MobileNetV1, build_slimmable_mobilenet_v1_backbone
from .mobilenet_v2 import MobileNetV2, build_slimmable_mobilenet_v2_backbone
from .resnet import ResNet, build_slimmable_resnet_backbone
from .vgg import VGG16, build_slimmable_vgg16_bn_backbone
from .wide_resnet import WideResNet, build_slimmable_wide_resnet_backbone

__all__ = [
    "VGG16",
    "MobileNetV1",
    "MobileNetV2",
    "ResNet",
    "SlimmableBackbone",
    "WideResNet",
    "build_slimmable_mobilenet_v1_backbone",
    "build_slimmable_mobilenet_v2_backbone",
    "build_slimmable_resnet_backbone",
    "build_slimmable_vgg16_bn_backbone",
    "build_slimmable_wide_resnet_backbone",
]
