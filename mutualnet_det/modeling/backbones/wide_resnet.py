"""
Slimmable WideResNet-28-10 for CIFAR (Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016,
table 1), for classification alone; named as in the public code of arXiv 1909.12978.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn

from ...config import ConfigError
from ...slimmable import Channels, SlimmableBatchNorm2d, SlimmableConv2d, SlimmableLinear, Width
from .base import LOGITS, SlimmableBackbone, backbone_arguments

STEM_CHANNELS = 16
# Depth 28 is four blocks of two convolutions in each of three groups.
BLOCKS_PER_GROUP = 4
# Channels and stride of the groups, ten times as wide as a ResNet's: the paper's table 1.
GROUPS = ((160, 1), (320, 2), (640, 2))


class BasicBlock(nn.Module):
    """
    Norm, ReLU and 3x3 convolution, twice, with a shortcut that is projected where the dimension
    changes: the projection then sees what the first convolution sees.

    Input (N, Ci, H, W), output (N, Co, H / stride, W / stride), rounded up.
    """

    def __init__(
        self, in_channels: Channels, out_channels: Channels, stride: int, width: Width
    ) -> None:
        super().__init__()
        conv = partial(SlimmableConv2d, bias=False, width=width)
        norm = partial(SlimmableBatchNorm2d, width=width)
        self.bn1 = norm(in_channels)
        self.conv1 = conv(in_channels, out_channels, 3, stride, padding=1)
        self.bn2 = norm(out_channels)
        self.conv2 = conv(out_channels, out_channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.convShortcut = None
        # Of the dimensions, not of the counts at a width, which may agree.
        if in_channels != out_channels:
            self.convShortcut = conv(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu(self.bn1(x))
        out = self.conv2(self.relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class WideResNet(SlimmableBackbone):
    """
    WideResNet-28-10 without dropout. Its strides are 1, 2 and 4, so it has no features for a
    detector: it gives ``logits``.

    Args:
        width: the handle its layers share.
        num_classes: of the classifier; ConfigError without any.
        in_channels: channels of the image, never slimmed.
        freeze_at: freeze the first of four stages, the stem and the groups: see
            :class:`SlimmableBackbone`.
        out_features: ``logits``.
    """

    def __init__(
        self,
        width: Width,
        num_classes: int = 0,
        in_channels: int = 3,
        freeze_at: int = 0,
        out_features: Sequence[str] = (LOGITS,),
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ConfigError(
                f"MODEL.BACKBONE.NUM_CLASSES is {num_classes}; expected at least 1: a WideResNet "
                "is for classification alone."
            )
        self.width = width
        channels = Channels(STEM_CHANNELS)
        self.conv1 = SlimmableConv2d(
            Channels.fixed(in_channels), channels, 3, padding=1, bias=False, width=width
        )
        for number, (base, first_stride) in enumerate(GROUPS, start=1):
            blocks = []
            for repeat in range(BLOCKS_PER_GROUP):
                stride = first_stride if repeat == 0 else 1
                blocks.append(BasicBlock(channels, Channels(base), stride, width))
                channels = Channels(base)
            group = nn.Sequential(OrderedDict(layer=nn.Sequential(*blocks)))
            setattr(self, f"block{number}", group)
        self.bn1 = SlimmableBatchNorm2d(channels, width=width)
        self.relu = nn.ReLU(inplace=True)
        self.fc = SlimmableLinear(channels, Channels.fixed(num_classes), width=width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.zeros_(self.fc.bias)
        self.describe({}, out_features, num_classes, freeze_at)

    def stages(self) -> list[list[nn.Module]]:
        return [[self.conv1], [self.block1], [self.block2], [self.block3, self.bn1, self.relu]]

    def classify(self, features: Tensor) -> Tensor:
        return self.fc(features.mean(dim=(2, 3)))


@BACKBONE_REGISTRY.register()
def build_slimmable_wide_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> WideResNet:
    """A slimmable WideResNet-28-10: see :func:`backbone_arguments`."""
    return WideResNet(**backbone_arguments(cfg, input_shape))
