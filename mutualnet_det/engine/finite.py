"""Keeping what is not finite out of the weights."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

# Steps in a row that float16's scaler may leave out: each time it halves its scale, 2**16 at first.
SCALER_STEPS = 30


class SkippedSteps:
    """
    Counts the steps that are left out because something in them is not finite.

    Args:
        limit: how many in a row may be left out.
    """

    def __init__(self, limit: int) -> None:
        self.total = 0
        self.in_a_row = 0
        self._limit = limit

    def end_row(self) -> None:
        """A step has been taken."""
        self.in_a_row = 0

    def add(self, reason: str, model: nn.Module) -> None:
        """
        One more; FloatingPointError with the reason if it is one too many.

        The same if the forward passes have left ``model`` a buffer, such as a running statistic,
        that is not finite: it would stay so.
        """
        self.in_a_row += 1
        self.total += 1
        buffer = not_finite(model.named_buffers())
        if buffer is not None:
            raise FloatingPointError(f"{reason}, and so is {buffer}")
        if self.in_a_row > self._limit:
            raise FloatingPointError(
                f"{reason}, after {self._limit} in a row" if self._limit else reason
            )
        logger.warning("This step is left out, the %d. so far: %s", self.total, reason)


def not_finite(tensors: Iterable[tuple[str, Tensor | None]]) -> str | None:
    """The name of the first tensor with a value that is not finite, if there is one."""
    for name, tensor in tensors:
        if tensor is not None and not torch.isfinite(tensor).all():
            return name
    return None
