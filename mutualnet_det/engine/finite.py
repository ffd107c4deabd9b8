"""Keeping what is not finite out of the weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

# Steps in a row that float16's scaler may leave out: each time it halves its scale, 2**16 at first.
SCALER_STEPS = 30


class SkippedSteps:
    """
    Count of the steps that are left out because something in them is not finite.

    Args:
        limit: how many in a row may be left out.
    """

    def __init__(self, limit: int) -> None:
        self.total = 0
        self.in_a_row = 0
        self._limit = limit

    def end_row(self) -> None:
        """Note that a step has been taken."""
        self.in_a_row = 0

    def add(self, reason: str, model: nn.Module) -> None:
        """
        Leave out one more step.

        Raises:
            FloatingPointError: with the reason, if it is one too many, or if the forward passes
                have left ``model`` a buffer, such as a running statistic, that is not finite: it
                would stay so.
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

    def state_dict(self) -> dict[str, int]:
        return {"skipped_steps": self.total, "skipped_in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = state.get("skipped_steps", 0)
        self.in_a_row = state.get("skipped_in_a_row", 0)


def gradient_problem(model: nn.Module, norm: float) -> str:
    """
    Say which gradient of ``model`` is not finite; empty if all are.

    Args:
        norm: of all gradients together.
    """
    if math.isfinite(norm):
        return ""
    gradients = ((name, parameter.grad) for name, parameter in model.named_parameters())
    return f"The gradient of {not_finite(gradients) or 'all together'} is not finite"


def not_finite(tensors: Iterable[tuple[str, Tensor | None]]) -> str | None:
    """Name the first tensor with a value that is not finite, if there is one."""
    for name, tensor in tensors:
        if tensor is not None and not torch.isfinite(tensor).all():
            return name
    return None
