"""
The outputs of heads that belong to single classes, so that a class keeps its own in another list.

What each output of a head's last layer is for is told by a label: outputs of two models that have
the same label do the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.keypoint_head import KRCNNConvDeconvUpsampleHead
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import nn

from .backbones import SlimmableBackbone

# The label of the output for no class.
BACKGROUND = None

Labels = Callable[[Sequence[str]], list[Hashable]]


class ClassOutputs(NamedTuple):
    """
    A layer whose outputs belong to classes, if there are as many as ``labels`` gives labels; else
    they serve all classes alike.

    Attributes:
        layer: its name.
        named: the key, in a data set's metadata, of the names: "thing_classes" and so on.
        labels: of the outputs in their order, from the names.
        dim: of the weight, that the outputs lie along.
    """

    layer: str
    named: str
    labels: Labels
    dim: int = 0


def class_outputs(model: nn.Module) -> Iterator[ClassOutputs]:
    """The layers of a model whose outputs belong to classes, by their names in it."""
    for prefix, module in model.named_modules():
        for outputs in outputs_of(module):
            yield outputs._replace(layer=f"{prefix}.{outputs.layer}".lstrip("."))


@functools.singledispatch
def outputs_of(module: nn.Module) -> list[ClassOutputs]:
    """Such layers of a module itself, without those of the modules that it holds."""
    return []


@outputs_of.register(FastRCNNOutputLayers)
def _(module: FastRCNNOutputLayers) -> list[ClassOutputs]:
    coordinates = range(len(module.box2box_transform.weights))
    return [
        ClassOutputs("cls_score", "thing_classes", lambda names: [*names, BACKGROUND]),
        ClassOutputs(
            "bbox_pred", "thing_classes", lambda names: [(n, i) for n in names for i in coordinates]
        ),
    ]


@outputs_of.register(MaskRCNNConvUpsampleHead)
def _(module: MaskRCNNConvUpsampleHead) -> list[ClassOutputs]:
    return [ClassOutputs("predictor", "thing_classes", list)]


@outputs_of.register(KRCNNConvDeconvUpsampleHead)
def _(module: KRCNNConvDeconvUpsampleHead) -> list[ClassOutputs]:
    # A transposed convolution, whose weight has its inputs first.
    return [ClassOutputs("score_lowres", "keypoint_names", list, dim=1)]


@outputs_of.register(RetinaNetHead)
def _(module: RetinaNetHead) -> list[ClassOutputs]:
    anchors = range(module.bbox_pred.weight.shape[0] // 4)
    return [
        ClassOutputs(
            "cls_score", "thing_classes", lambda names: [(a, n) for a in anchors for n in names]
        )
    ]


@outputs_of.register(SemSegFPNHead)
def _(module: SemSegFPNHead) -> list[ClassOutputs]:
    return [ClassOutputs("predictor", "stuff_classes", list)]


@outputs_of.register(SlimmableBackbone)
def _(module: SlimmableBackbone) -> list[ClassOutputs]:
    linear = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    return [ClassOutputs(name, "classes", list) for name in linear[-1:]]
