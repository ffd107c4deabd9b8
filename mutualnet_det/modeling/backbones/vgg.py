"""
Slimmable VGG-16 with batch normalisation (Simonyan and Zisserman, "Very Deep Convolutional Networks
for Large-Scale Image Recognition", ICLR 2015, table 1, configuration D), named as in torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn

from ...slimmable import Channels, SlimmableBatchNorm2d, SlimmableConv2d, SlimmableLinear, Width
from .base import SlimmableBackbone, backbone_arguments, cut, initialise

# Channels of the 3x3 convolutions before each 2x2 max pooling: the paper's table 1.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# The last layer at each stride, by its index in ``features``, and its channels: the ReLUs of
# conv3_3, conv4_3 and conv5_3, and pool5.
OUT_FEATURES = {"res2": (22, 256), "res3": (32, 512), "res4": (42, 512), "res5": (43, 512)}
POOL2 = 13  # the first layer at stride 4, by its index
# The classifier sees a map of 7 x 7, whatever the size of the image.
CLASSIFIER_SIDE = 7
HIDDEN_CHANNELS = 4096


class VGG16(SlimmableBackbone):
    """
    VGG-16 with batch normalisation, with features at strides 4, 8, 16 and 32.

    Args:
        width: the handle its layers share.
        in_channels: channels of the image, never slimmed.
        num_classes: of the classifier; 0: no classifier.
        dropout: behind the classifier's hidden layers; torchvision's has 0.5.
        freeze_at: freeze the first stages: see :class:`SlimmableBackbone`.
        out_features: which of ``res2`` .. ``res5`` and ``logits`` to give.

    A side of the image that is no multiple of 32 loses its remainder, and one below 32 is an error.
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
        channels = Channels.fixed(in_channels)
        layers: list[nn.Module] = []
        for stage in STAGES:
            for out_channels in map(Channels, stage):
                layers += [
                    SlimmableConv2d(channels, out_channels, 3, padding=1, width=width),
                    SlimmableBatchNorm2d(out_channels, width=width),
                    nn.ReLU(inplace=True),
                ]
                channels = out_channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        if num_classes:
            area = CLASSIFIER_SIDE**2
            hidden = Channels(HIDDEN_CHANNELS)
            self.classifier = nn.Sequential(
                SlimmableLinear(Channels(channels.base * area, ratio=area), hidden, width=width),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                SlimmableLinear(hidden, hidden, width=width),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                SlimmableLinear(hidden, Channels.fixed(num_classes), width=width),
            )
        initialise(self)
        feature_channels = {name: Channels(base) for name, (_, base) in OUT_FEATURES.items()}
        self.describe(feature_channels, out_features, num_classes, freeze_at)

    def stages(self) -> list[list[nn.Module]]:
        return cut(self.features, [POOL2] + [index + 1 for index, _ in OUT_FEATURES.values()])

    def classify(self, features: Tensor) -> Tensor:
        return self.classifier(F.adaptive_avg_pool2d(features, CLASSIFIER_SIDE).flatten(1))


@BACKBONE_REGISTRY.register()
def build_slimmable_vgg16_bn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> VGG16:
    """A slimmable VGG-16 with batch normalisation: see :func:`backbone_arguments`."""
    dropout = cfg.MUTUALNET.CLASSIFICATION.DROPOUT
    return VGG16(**backbone_arguments(cfg, input_shape), dropout=dropout)
