"""The version of a tensor: how cached slices and calibrations notice that a weight has changed."""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

_steps = 0


def _count_step(*_: object) -> None:
    global _steps
    _steps += 1


# A fused optimiser writes to its parameters without raising their version counters.
register_optimizer_step_post_hook(_count_step)


class Version:
    """
    The content of a tensor at one moment, without a copy of it.

    It keeps the tensor's memory, so that no later tensor can come to lie at the same address. Only
    a write through ``tensor.data`` goes unnoticed: it leaves no trace.
    """

    __slots__ = ("_address", "_counter", "_held", "_steps")

    def __init__(self, tensor: Tensor) -> None:
        self._held = tensor.detach()
        self._address = tensor.data_ptr()
        # A tensor made in inference mode counts no versions.
        self._counter = None if tensor.is_inference() else tensor._version
        self._steps = _steps

    def is_of(self, tensor: Tensor) -> bool:
        """Tell whether ``tensor`` is the same memory, unchanged since, seen as the same type."""
        return (
            self._steps == _steps
            and not tensor.is_inference()
            and self._counter == tensor._version
            and self._address == tensor.data_ptr()
            and self._held.dtype == tensor.dtype
        )
