"""A training batch on its device, all of its tensors in one copy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from torch import Tensor

# Bytes that tensors begin at multiples of: no type has larger elements.
ALIGNMENT = 16


def uploaded(batched_inputs: list[dict[str, Any]], device: torch.device) -> list[dict[str, Any]]:
    """
    The same training batch on a device.

    Its tensors go there as one copy, to a GPU from pinned memory, that nobody waits for: one by
    one, each would wait for all that the GPU has still to do. Polygons stay on the CPU.

    Args:
        batched_inputs: training inputs on the CPU: "image", "sem_seg", and "instances" of them are
            tensors, or hold some.
        device: of the network.
    """
    tensors, starts, size = [], [], 0

    def take(tensor: Tensor) -> Tensor:
        nonlocal size
        tensors.append(tensor)
        starts.append(size)
        size += math.ceil(tensor.nbytes / ALIGNMENT) * ALIGNMENT
        return tensor

    for item in batched_inputs:
        _with_each(item, take)
    buffer = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for start, tensor in zip(starts, tensors, strict=True):
        _part(buffer, start, tensor).copy_(tensor)
    there = buffer.to(device, non_blocking=True)
    starts_left = iter(starts)
    return [
        _with_each(item, lambda tensor: _part(there, next(starts_left), tensor))
        for item in batched_inputs
    ]


def _part(buffer: Tensor, start: int, like: Tensor) -> Tensor:
    """The bytes of a buffer from ``start`` on, as a tensor of another's type and shape."""
    return buffer[start : start + like.nbytes].view(like.dtype).view(like.shape)


def _with_each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An input, or a part of one, with what ``change`` makes of each tensor, in one order."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Boxes | BitMasks | Keypoints):
        return type(value)(change(value.tensor))
    if isinstance(value, Instances):
        return Instances(value.image_size, **_with_each(value.get_fields(), change))
    if isinstance(value, dict):
        return {key: _with_each(each, change) for key, each in value.items()}
    return value
