"""A training batch on its device, all of its tensors in one copy."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
    tensors = list(_tensors(batched_inputs))
    starts, size = [], 0
    for tensor in tensors:
        starts.append(size)
        size += math.ceil(tensor.nbytes / ALIGNMENT) * ALIGNMENT
    buffer = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for start, tensor in zip(starts, tensors, strict=True):
        _part(buffer, start, tensor).copy_(tensor)
    there = buffer.to(device, non_blocking=True)
    moved = {
        id(tensor): _part(there, start, tensor)
        for start, tensor in zip(starts, tensors, strict=True)
    }
    return [_with_tensors(item, moved) for item in batched_inputs]


def _part(buffer: Tensor, start: int, like: Tensor) -> Tensor:
    """The bytes of a buffer from ``start`` on, as a tensor of another's type and shape."""
    return buffer[start : start + like.nbytes].view(like.dtype).view(like.shape)


def _tensors(batched_inputs: list[dict[str, Any]]) -> Iterator[Tensor]:
    for item in batched_inputs:
        for value in item.values():
            fields = value.get_fields().values() if isinstance(value, Instances) else (value,)
            for each in fields:
                if isinstance(each, Tensor):
                    yield each
                elif isinstance(each, Boxes | BitMasks | Keypoints):
                    yield each.tensor


def _with_tensors(item: dict[str, Any], moved: dict[int, Tensor]) -> dict[str, Any]:
    """An input with the tensors that stand for its own."""

    def replaced(value: Any) -> Any:
        if isinstance(value, Tensor):
            return moved[id(value)]
        if isinstance(value, Boxes | BitMasks | Keypoints):
            return type(value)(moved[id(value.tensor)])
        if isinstance(value, Instances):
            fields = {name: replaced(each) for name, each in value.get_fields().items()}
            return Instances(value.image_size, **fields)
        return value

    return {key: replaced(value) for key, value in item.items()}
