"""
Slimmable MobileNetV2 (Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
CVPR 2018, table 2), named as in torchvision.
"""

from __future__ import annotations

from functools import partial

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ...slimmable import Channels, SlimmableBatchNorm2d, SlimmableConv2d, Width

STEM_CHANNELS = 32
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
        # Of the dimensions, not of the counts at a width: 32 and 16 channels are both 8 at 0.25.
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(Backbone):
    """
    MobileNetV2 up to its last block, with features at strides 4, 8, 16 and 32.

    Args:
        width: the handle its layers share.
        in_channels: channels of the image, never slimmed.
        freeze_at: freeze weights, scale and shift of the first stages: 1 the stem and the block at
            stride 2, 2 also those at stride 4, up to 5. Statistics are never frozen.
        out_features: which of ``res2`` .. ``res5`` to give.

    Input (N, 3, H, W); ``resK`` is (N, C, H / 2^K, W / 2^K).
    """

    def __init__(
        self,
        width: Width,
        in_channels: int = 3,
        freeze_at: int = 0,
        out_features: tuple[str, ...] = tuple(OUT_FEATURES),
    ) -> None:
        super().__init__()
        self.width = width
        channels = Channels(STEM_CHANNELS)
        layers: list[nn.Module] = [
            conv_norm_relu(Channels.fixed(in_channels), channels, 3, stride=2, width=width)
        ]
        block = partial(InvertedResidual, width=width)
        self.feature_channels: dict[str, Channels] = {}
        names = {index: name for name, index in OUT_FEATURES.items()}
        for expansion, base, repeats, first_stride in STAGES:
            for repeat in range(repeats):
                layers.append(
                    block(channels, Channels(base), first_stride if repeat == 0 else 1, expansion)
                )
                channels = Channels(base)
                if len(layers) - 1 in names:
                    self.feature_channels[names[len(layers) - 1]] = channels
        self.features = nn.Sequential(*layers)
        self._out_features = list(out_features)
        self._out_feature_strides = {name: 2 ** int(name[-1]) for name in out_features}
        self._out_feature_channels = {
            name: self.feature_channels[name].at(width.maximum) for name in out_features
        }
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        self._freeze(freeze_at)

    def _freeze(self, stages: int) -> None:
        # Stage 1 is all before the first block at stride 4; stage k ends with resk.
        ends = [2] + [index + 1 for index in OUT_FEATURES.values()]
        if not 0 <= stages <= len(ends):
            raise ValueError(f"MODEL.BACKBONE.FREEZE_AT is {stages}; expected 0 to {len(ends)}.")
        for layer in self.features[: ends[stages - 1] if stages else 0]:
            layer.requires_grad_(False)

    @property
    def size_divisibility(self) -> int:
        return 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        outputs = {}
        names = {OUT_FEATURES[name]: name for name in self._out_features}
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in names:
                outputs[names[index]] = x
        return outputs


@BACKBONE_REGISTRY.register()
def build_slimmable_mobilenet_v2_backbone(cfg, input_shape: ShapeSpec) -> MobileNetV2:
    """A MobileNetV2 of ``MUTUALNET.WIDTH_RANGE``, frozen up to ``MODEL.BACKBONE.FREEZE_AT``."""
    return MobileNetV2(
        Width(*cfg.MUTUALNET.WIDTH_RANGE),
        in_channels=input_shape.channels,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
