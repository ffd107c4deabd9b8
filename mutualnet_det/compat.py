"""
Names that Detectron2 and torch keep to themselves and that the project needs all the same.

They may go with any release. They stand here alone, each with its reason, and are looked up when
they are called: tests/test_compat.py says which one is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

if TYPE_CHECKING:  # slimmable, which knows torch alone, reads this module too
    from detectron2.modeling.roi_heads import CascadeROIHeads
    from detectron2.structures import Instances

# Each private name by its full path, and what is done without it.
NAMES = {
    "torch._foreach_add_": "each gradient is added by itself",
    "torch._foreach_clamp_max_": "each gradient is clipped by itself",
    "torch._foreach_clamp_min_": "each gradient is clipped by itself",
    "torch._foreach_copy_": "each gradient is copied by itself",
    "torch._foreach_lerp_": "each parameter is averaged by itself",
    "torch._foreach_mul_": "each gradient is scaled by itself",
    "torch._foreach_norm": "each gradient's norm is taken by itself",
    "torch._C._current_graph_task_id": "recomputed activations update running statistics twice",
    "torch.distributed.distributed_c10d._get_default_store": "processes need a store of their own",
    "detectron2.utils.comm._get_global_gloo_group": "a group for messages on the CPU is needed",
    "detectron2.modeling.roi_heads.CascadeROIHeads._create_proposals_from_boxes": "copy it",
    "detectron2.modeling.roi_heads.CascadeROIHeads._init_box_head": "overridden in vain by heads",
    "detectron2.modeling.roi_heads.CascadeROIHeads._match_and_label_boxes": "copy it",
    "detectron2.modeling.roi_heads.CascadeROIHeads._run_stage": "copy it",
    "detectron2.modeling.roi_heads.StandardROIHeads._init_box_head": "overridden in vain by heads",
    "detectron2.modeling.meta_arch.RetinaNet._ema_update": "overridden in vain by retinanet",
    "detectron2.modeling.meta_arch.RetinaNet._transpose_dense_predictions": "copy it",
}

# Lists of tensors, in one kernel: a network has hundreds of them, and a kernel for each takes
# longer than what it computes.


def foreach_add_(tensors: list[Tensor], others: list[Tensor]) -> None:
    """Add to each tensor, in place, the other one in its position."""
    torch._foreach_add_(tensors, others)


def foreach_clamp_(tensors: list[Tensor], low: float, high: float) -> None:
    """Clamp each tensor in place."""
    torch._foreach_clamp_max_(tensors, high)
    torch._foreach_clamp_min_(tensors, low)


def foreach_copy_(tensors: list[Tensor], sources: list[Tensor]) -> None:
    """Copy to each tensor the source in its position."""
    torch._foreach_copy_(tensors, sources)


def foreach_lerp_(tensors: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """Move each tensor in place towards the end in its position, by ``weight`` of the way."""
    torch._foreach_lerp_(tensors, ends, weight)


def foreach_mul_(tensors: list[Tensor], factors: list[Tensor]) -> None:
    """Multiply each tensor in place by the factor, a scalar, in its position."""
    torch._foreach_mul_(tensors, factors)


def foreach_norm(tensors: list[Tensor], order: float = 2) -> Tensor:
    """The norm of each of T tensors, (T,)."""
    return torch.stack(torch._foreach_norm(tensors, order))


def in_backward() -> bool:
    """Tell whether this runs inside a backward pass, as a recomputed forward does."""
    return bool(torch._C._current_graph_task_id() != -1)


def default_store() -> distributed.Store:
    """The store over which the processes of the default group have met; it holds until they end."""
    return distributed.distributed_c10d._get_default_store()


def cpu_group() -> distributed.ProcessGroup:
    """A group of all processes for tensors on the CPU; Detectron2 makes it once and keeps it."""
    from detectron2.utils import comm

    group: distributed.ProcessGroup = comm._get_global_gloo_group()
    return group


# Stages of a cascade of box heads: Detectron2 runs them all in one go, and students need each.


def cascade_stage(
    heads: CascadeROIHeads, levels: list[Tensor], proposals: list[Instances], number: int
) -> tuple[Tensor, Tensor]:
    """The class logits and box deltas of one stage, on the pyramid's levels."""
    return heads._run_stage(levels, proposals, number)


def cascade_proposals(
    heads: CascadeROIHeads,
    boxes: Sequence[Tensor],
    sizes: list[tuple[int, int]],
    number: int,
    instances: list[Instances],
) -> list[Instances]:
    """
    The proposals of one stage, labelled with the ground truth.

    Args:
        boxes: that the stage before it predicts, (R, 4) per image.
        sizes: (height, width) of the images.
    """
    proposals = heads._create_proposals_from_boxes(boxes, sizes)
    return heads._match_and_label_boxes(proposals, number, instances)
