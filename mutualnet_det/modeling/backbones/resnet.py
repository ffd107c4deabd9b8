"""
Slimmable ResNet-50, -101 and -152 (He et al., "Deep Residual Learning for Image Recognition",
CVPR 2016, table 1), named as in torchvision and with its stride on the 3x3 convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn

from ...config import ConfigError
from ...slimmable import Channels, SlimmableBatchNorm2d, SlimmableConv2d, SlimmableLinear, Width
from .base import SlimmableBackbone, backbone_arguments

# Blocks in each stage, by depth, and the stages' output channels: the paper's table 1.
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
OUT_FEATURES = {"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}
# A bottleneck's inner dimension is a quarter of its output's rounded number at every width, and the
# stem's is the first stage's inner dimension: arXiv 1909.12978's code.
EXPANSION = 4
STEM = Channels(64, ratio=1 / EXPANSION)


class Bottleneck(nn.Module):
    """
    Reduce (1x1), convolve (3x3), expand (1x1), with a shortcut that is projected where the shape
    changes.

    Input (N, Ci, H, W), output (N, Co, H / stride, W / stride).
    """

    def __init__(
        self, in_channels: Channels, out_channels: Channels, stride: int, width: Width
    ) -> None:
        super().__init__()
        inner = Channels(out_channels.base // EXPANSION, ratio=1 / EXPANSION)
        conv = partial(SlimmableConv2d, bias=False, width=width)
        norm = partial(SlimmableBatchNorm2d, width=width)
        self.conv1 = conv(in_channels, inner, 1)
        self.bn1 = norm(inner)
        self.conv2 = conv(inner, inner, 3, stride, padding=1)
        self.bn2 = norm(inner)
        self.conv3 = conv(inner, out_channels, 1)
        self.bn3 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        # Of the dimensions, not of the counts at a width, which may agree.
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                conv(in_channels, out_channels, 1, stride), norm(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(SlimmableBackbone):
    """
    A ResNet of bottlenecks, with features at strides 4, 8, 16 and 32.

    Args:
        width: the handle its layers share.
        depth: 50, 101 or 152; ConfigError for any other.
        in_channels: channels of the image, never slimmed.
        num_classes: of the classifier; 0: no classifier.
        freeze_at: freeze the first stages: see :class:`SlimmableBackbone`.
        out_features: which of ``res2`` .. ``res5`` and ``logits`` to give.
    """

    def __init__(
        self,
        width: Width,
        depth: int = 50,
        in_channels: int = 3,
        num_classes: int = 0,
        freeze_at: int = 0,
        out_features: Sequence[str] = tuple(OUT_FEATURES),
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            expected = ", ".join(map(str, BLOCKS))
            raise ConfigError(f"MODEL.RESNETS.DEPTH is {depth}; expected one of {expected}.")
        self.width = width
        self.conv1 = SlimmableConv2d(
            Channels.fixed(in_channels), STEM, 7, stride=2, padding=3, bias=False, width=width
        )
        self.bn1 = SlimmableBatchNorm2d(STEM, width=width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        feature_channels = {name: Channels(base) for name, base in OUT_FEATURES.items()}
        channels = STEM
        for number, (out_channels, repeats) in enumerate(
            zip(feature_channels.values(), BLOCKS[depth], strict=True), start=1
        ):
            blocks = []
            for repeat in range(repeats):
                stride = 2 if number > 1 and repeat == 0 else 1
                blocks.append(Bottleneck(channels, out_channels, stride, width))
                channels = out_channels
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        if num_classes:
            self.fc = SlimmableLinear(channels, Channels.fixed(num_classes), width=width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        self.describe(feature_channels, out_features, num_classes, freeze_at)

    def stages(self) -> list[list[nn.Module]]:
        return [
            [self.conv1, self.bn1, self.relu],
            [self.maxpool, *self.layer1],
            [*self.layer2],
            [*self.layer3],
            [*self.layer4],
        ]

    def classify(self, features: Tensor) -> Tensor:
        return self.fc(features.mean(dim=(2, 3)))


@BACKBONE_REGISTRY.register()
def build_slimmable_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """A slimmable ResNet of ``MODEL.RESNETS.DEPTH``: see :func:`backbone_arguments`."""
    return ResNet(depth=cfg.MODEL.RESNETS.DEPTH, **backbone_arguments(cfg, input_shape))
