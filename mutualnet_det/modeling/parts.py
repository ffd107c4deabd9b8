"""Parts around the backbone of any of Detectron2's models: how images reach it, what follows."""

from __future__ import annotations

from detectron2.structures import ImageList
from torch import nn

from ..slimmable import SlimmableBatchNorm2d


def normalised_batch(model: nn.Module, batched_inputs: list[dict]) -> ImageList:
    """The images normalised, padded and batched, as a SemanticSegmentor does it in passing."""
    images = [x["image"].to(model.device) for x in batched_inputs]
    return ImageList.from_tensors(
        [(x - model.pixel_mean) / model.pixel_std for x in images],
        model.backbone.size_divisibility,
        padding_constraints=model.backbone.padding_constraints,
    )


def has_norms_behind_backbone(model: nn.Module) -> bool:
    """Tell whether parts behind the backbone and its pyramid hold statistics, too."""
    in_backbone = set(model.backbone.modules())
    return any(
        isinstance(module, SlimmableBatchNorm2d) and module not in in_backbone
        for module in model.modules()
    )
