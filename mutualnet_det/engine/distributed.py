"""What processes that train together exchange: the first weights, and one reduction per step."""

from __future__ import annotations

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors


def broadcast_weights(model: nn.Module) -> None:
    """Give every process the parameters and buffers of the first one."""
    if comm.get_world_size() > 1:
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor.data, src=0)


def reduce_gradients(parameters: list[Tensor]) -> None:
    """
    Average the gradients over all processes, in one reduction.

    A parameter that this process did not use counts as a gradient of 0, so that all processes
    reduce the same tensors: one may have seen no foreground, another no instance.
    """
    if comm.get_world_size() == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters]
    flat = _flatten_dense_tensors(gradients)
    dist.all_reduce(flat)
    flat /= comm.get_world_size()
    averages = _unflatten_dense_tensors(flat, gradients)
    for gradient, average in zip(gradients, averages, strict=True):
        gradient.copy_(average)
