"""Gradients of sub-networks, added to those of the whole parameters at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..compat import foreach_add_
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
        gathered = [(p, leaf.grad) for p, leaf in shared.leaves.values() if leaf.grad is not None]
    finally:
        shared.leaves = before
    with torch.no_grad():
        sums = []
        for parameter, gradient in gathered:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            sums.append(parameter.grad[leading(tuple(gradient.shape))])
        if sums:  # a pass of the full network slices nothing
            foreach_add_(sums, [gradient for _, gradient in gathered])
