"""Gradients of sub-networks, added to those of the whole parameters at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .layers import leading
from .width import width_of


@contextmanager
def gathered_gradients(model: nn.Module) -> Iterator[None]:
    """
    Collect the gradients of slices of parameters as they are, and add them to the parameters' on
    exit, unless there is an error.

    The sums are autograd's own. But autograd fills each slice's gradient up with zeros to that of
    the whole parameter, dimension by dimension, and adds it then: more work than some layers'
    backward. Forward and backward both belong inside: what is differentiated later is lost.
    """
    shared = width_of(model).shared
    before, shared.leaves = shared.leaves, {}
    try:
        yield
        leaves = [found for found in shared.leaves.values() if found[1].grad is not None]
    finally:
        shared.leaves = before
    with torch.no_grad():
        for parameter, _ in leaves:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        sums = [parameter.grad[leading(tuple(leaf.shape))] for parameter, leaf in leaves]
        if sums:  # a pass of the full network slices nothing
            torch._foreach_add_(sums, [leaf.grad for _, leaf in leaves])
