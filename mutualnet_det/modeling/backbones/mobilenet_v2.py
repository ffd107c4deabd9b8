"""
Slimmable MobileNetV2 (Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
CVPR 2018, table 2), named as in torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn

from ...slimmable import Channels, SlimmableBatchNorm2d, SlimmableConv2d, SlimmableLinear, Width
from .base import SlimmableBackbone, backbone_arguments, cut, initialise

STEM_CHANNELS = 32
TAIL_CHANNELS = 1280
# Expansion t, channels c, repeats n, stride s of the first: the paper's table 2.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# The last block at each stride, by its index in ``features``: where the detector taps the network.
OUT_FEATURES = {"res2": 3, "res3": 6, "res4": 13, "res5": 17}


def conv_norm_relu(
    in_channels: Channels,
    out_channels: Channels,
    kernel_size: int,
    stride: int = 1,
    *,
    depthwise: bool = False,
    width: Width,
) -> nn.Sequential:
    """A convolution without bias, its norm and a ReLU6."""
    return nn.Sequential(
        SlimmableConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            bias=False,
            depthwise=depthwise,
            width=width,
        ),
        SlimmableBatchNorm2d(out_channels, width=width),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """
    Expand (1x1), depthwise (3x3), project (1x1), with a shortcut where the shape stays.

    Input (N, Ci, H, W), output (N, Co, H / stride, W / stride).
    """

    def __init__(
        self,
        in_channels: Channels,
        out_channels: Channels,
        stride: int,
        expansion: int,
        width: Width,
    ) -> None:
        super().__init__()
        # The expanded dimension is 6 times a rounded number, whatever the width.
        hidden = Channels(in_channels.base * expansion, ratio=expansion)
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(conv_norm_relu(in_channels, hidden, 1, width=width))
        layers += [
            conv_norm_relu(hidden, hidden, 3, stride, depthwise=True, width=width),
            SlimmableConv2d(hidden, out_channels, 1, bias=False, width=width),
            SlimmableBatchNorm2d(out_channels, width=width),
        ]
        self.conv = nn.Sequential(*layers)
        self.out_dim = out_channels
        # Of the dimensions, not of the counts at a width: 32 and 16 channels are both 8 at 0.25.
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(SlimmableBackbone):
    """
    MobileNetV2, with features at strides 4, 8, 16 and 32 taken before the tail.

    Args:
        width: the handle its layers share.
        in_channels: channels of the image, never slimmed.
        num_classes: of the classifier; 0: neither tail nor classifier.
        dropout: before the classifier; torchvision's has 0.2.
        freeze_at: freeze the first stages: see :class:`SlimmableBackbone`.
        out_features: which of ``res2`` .. ``res5`` and ``logits`` to give.
    """

    def __init__(
        self,
        width: Width,
        in_channels: int = 3,
        num_classes: int = 0,
        dropout: float = 0.0,
        freeze_at: int = 0,
        out_features: Sequence[str] = tuple(OUT_FEATURES),
    ) -> None:
        super().__init__()
        self.width = width
        channels = Channels(STEM_CHANNELS)
        layers: list[nn.Module] = [
            conv_norm_relu(Channels.fixed(in_channels), channels, 3, stride=2, width=width)
        ]
        block = partial(InvertedResidual, width=width)
        for expansion, base, repeats, first_stride in STAGES:
            for repeat in range(repeats):
                layers.append(
                    block(channels, Channels(base), first_stride if repeat == 0 else 1, expansion)
                )
                channels = Channels(base)
        feature_channels = {name: layers[index].out_dim for name, index in OUT_FEATURES.items()}
        if num_classes:
            tail = tail_channels(width)
            layers.append(conv_norm_relu(channels, tail, 1, width=width))
            self.classifier = nn.Sequential(
                nn.Dropout(dropout),
                SlimmableLinear(tail, Channels.fixed(num_classes), width=width),
            )
        self.features = nn.Sequential(*layers)
        initialise(self)
        self.describe(feature_channels, out_features, num_classes, freeze_at)

    def stages(self) -> list[list[nn.Module]]:
        # The stem and the block at stride 2 make up stage 1.
        return cut(self.features, [2] + [index + 1 for index in OUT_FEATURES.values()])

    def classify(self, features: Tensor) -> Tensor:
        tail = self.features[-1](features)
        return self.classifier(tail.mean(dim=(2, 3)))


def tail_channels(width: Width) -> Channels:
    """The 1280-channel tail: not slimmed, but wider in a network that is wider than 1."""
    return Channels.fixed(Channels(TAIL_CHANNELS).at(max(1.0, width.maximum)))


@BACKBONE_REGISTRY.register()
def build_slimmable_mobilenet_v2_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MobileNetV2:
    """A slimmable MobileNetV2: see :func:`backbone_arguments`."""
    dropout = cfg.MUTUALNET.CLASSIFICATION.DROPOUT
    return MobileNetV2(**backbone_arguments(cfg, input_shape), dropout=dropout)
