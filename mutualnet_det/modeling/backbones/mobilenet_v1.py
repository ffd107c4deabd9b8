"""
Slimmable MobileNetV1 (Howard et al., "MobileNets: Efficient Convolutional Neural Networks for
Mobile Vision Applications", arXiv 1704.04861, table 1), named as torchvision names MobileNetV2.
"""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn

from ...slimmable import Channels, SlimmableLinear, Width
from .base import SlimmableBackbone, backbone_arguments, cut, initialise
from .mobilenet_v2 import conv_norm_relu

STEM_CHANNELS = 32
# Channels c, repeats n, stride s of the first: the paper's table 1.
STAGES = (
    (64, 1, 1),
    (128, 2, 2),
    (256, 2, 2),
    (512, 6, 2),
    (1024, 2, 2),
)
# The last block at each stride, by its index in ``features``: where the detector taps the network.
OUT_FEATURES = {"res2": 3, "res3": 5, "res4": 11, "res5": 13}


class DepthwiseSeparable(nn.Sequential):
    """
    Depthwise (3x3), pointwise (1x1), each with its norm and a ReLU6, as in the public slimmable
    code.

    Input (N, Ci, H, W), output (N, Co, H / stride, W / stride).
    """

    def __init__(
        self, in_channels: Channels, out_channels: Channels, stride: int, width: Width
    ) -> None:
        super().__init__(
            conv_norm_relu(in_channels, in_channels, 3, stride, depthwise=True, width=width),
            conv_norm_relu(in_channels, out_channels, 1, width=width),
        )
        self.out_dim = out_channels


class MobileNetV1(SlimmableBackbone):
    """
    MobileNetV1, with features at strides 4, 8, 16 and 32.

    Args:
        width: the handle its layers share.
        in_channels: channels of the image, never slimmed.
        num_classes: of the classifier; 0: no classifier.
        freeze_at: freeze the first stages: see :class:`SlimmableBackbone`.
        out_features: which of ``res2`` .. ``res5`` and ``logits`` to give.
    """

    def __init__(
        self,
        width: Width,
        in_channels: int = 3,
        num_classes: int = 0,
        freeze_at: int = 0,
        out_features: Sequence[str] = tuple(OUT_FEATURES),
    ) -> None:
        super().__init__()
        self.width = width
        channels = Channels(STEM_CHANNELS)
        layers: list[nn.Module] = [
            conv_norm_relu(Channels.fixed(in_channels), channels, 3, stride=2, width=width)
        ]
        for base, repeats, first_stride in STAGES:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                layers.append(DepthwiseSeparable(channels, Channels(base), stride, width))
                channels = Channels(base)
        feature_channels = {name: layers[index].out_dim for name, index in OUT_FEATURES.items()}
        self.features = nn.Sequential(*layers)
        if num_classes:
            self.classifier = nn.Sequential(
                SlimmableLinear(channels, Channels.fixed(num_classes), width=width)
            )
        initialise(self)
        self.describe(feature_channels, out_features, num_classes, freeze_at)

    def stages(self) -> list[list[nn.Module]]:
        # The stem and the block at stride 2 make up stage 1.
        return cut(self.features, [2] + [index + 1 for index in OUT_FEATURES.values()])

    def classify(self, features: Tensor) -> Tensor:
        return self.classifier(features.mean(dim=(2, 3)))


@BACKBONE_REGISTRY.register()
def build_slimmable_mobilenet_v1_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MobileNetV1:
    """A slimmable MobileNetV1: see :func:`backbone_arguments`."""
    return MobileNetV1(**backbone_arguments(cfg, input_shape))
