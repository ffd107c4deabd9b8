"""Exporting: the full network of a classification checkpoint, as others know it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .layouts import LAYOUTS, TIMM, TORCHVISION, Layout, differ_in_statistics
from .provenance import RESNET_BUILDER
from .reading import CheckpointError, read_checkpoint
from .writing import check_output, write_checkpoint

# timm's ResNets have torchvision's names.
EXPORTS = {
    TORCHVISION: [layout for layout in LAYOUTS if layout.source == TORCHVISION],
    TIMM: [
        layout
        for layout in LAYOUTS
        if layout.source == TIMM
        or (layout.source == TORCHVISION and layout.architecture.builder == RESNET_BUILDER)
    ],
}


def export_backbone(source: str, output: str, names: str = TORCHVISION) -> Layout:
    """
    Write the full network of a classification checkpoint of this project as a plain state dict.

    It loads into the model of that name with ``strict=True`` and computes the same. For a network
    whose largest width is not 1, it is the model of that width.

    Args:
        source: a checkpoint that was pretrained or imported here, with its classifier.
        output: the file to write.
        names: "torchvision" or "timm".

    Returns:
        the layout it was written in.

    Raises:
        CheckpointError: naming the file and why it cannot be exported. Nothing is written then.
    """
    check_output(output, source)
    checkpoint = read_checkpoint(source)
    layout = _layout_of(checkpoint.get("mutualnet", {}).get("architecture", {}), names, source)
    write_checkpoint(output, _renamed(checkpoint["model"], layout, source))
    return layout


def _layout_of(architecture: dict[str, Any], names: str, path: str) -> Layout:
    builder, depth = (
        architecture.get("MODEL.BACKBONE.NAME"),
        architecture.get("MODEL.RESNETS.DEPTH"),
    )
    if builder is None:
        raise CheckpointError(
            f"{path} is no classification checkpoint of this project; expected one of "
            "mutualnet pretrain or `mutualnet import`."
        )
    for layout in EXPORTS[names]:
        if (layout.architecture.builder, layout.architecture.depth) == (builder, depth):
            return layout
    known = ", ".join(layout.architecture.name for layout in EXPORTS[names])
    raise CheckpointError(
        f"{path} holds a network of {builder}, which {names} does not have. Known are: {known}."
    )


def _renamed(state: dict[str, Tensor], layout: Layout, path: str) -> dict[str, Tensor]:
    if differ_in_statistics(state, layout.names):
        raise CheckpointError(
            f"{path} was trained with MUTUALNET.NORM GN; a {layout} has batch normalisation."
        )
    missing = [key for key in layout.names if key not in state]
    unknown = [key for key in state if key not in layout.names]
    if missing or unknown:
        raise CheckpointError(
            f"{path} is no whole {layout.architecture.name} with its classifier: {len(missing)} "
            f"entries are missing and {len(unknown)} unknown, {(missing + unknown)[0]} first."
        )
    return {
        name: layout.from_project(key, state[key]).clone(memory_format=torch.contiguous_format)
        for key, name in layout.names.items()
    }
