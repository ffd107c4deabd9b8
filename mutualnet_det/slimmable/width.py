"""
The width of a model: one shared value that every slimmable layer of the model reads.

Switching sets that one value, so it costs the same for ten layers as for a thousand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

Statistics = Mapping[nn.Module, tuple[Tensor, Tensor]]


class _Shared:
    """The state in force in one model. A copy of a model starts untouched, at full width."""

    def __init__(self, full: float) -> None:
        self.full = full
        self.value = full
        # Mean and variance by norm layer that stand for the batch's own or the running ones.
        self.statistics: Statistics | None = None
        # Called as recorder(norm layer, its input) while a calibration collects statistics.
        self.recorder: Callable[[nn.Module, Tensor], None] | None = None
        # Whether a full-width pass in training mode updates the running statistics.
        self.tracks = True
        # Whether batch statistics are those of all processes' batches together.
        self.joint = False
        # Parameters and slices of them by (id of the parameter, counts), while a pass gathers the
        # slices' gradients.
        self.leaves: dict[tuple[int, tuple[int, ...]], tuple[Tensor, Tensor]] | None = None
        # Held while a width is in force: another thread waits instead of changing it midway.
        self.lock = threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        copy: _Shared = memo.setdefault(id(self), _Shared(self.full))
        return copy

    def __reduce__(self) -> tuple[type[_Shared], tuple[float]]:
        return (_Shared, (self.full,))


class Width:
    """
    A layer's handle on the width of the model it belongs to.

    Layers made with one handle share a width from the start. Parts built apart (Detectron2's
    registries hand a head nothing but the config) get handles of their own, which are joined the
    first time the model they end up in is switched.

    Args:
        minimum, maximum: the range of widths. The full network is the one at ``maximum``, which may
            be above 1.
    """

    def __init__(self, minimum: float = 0.25, maximum: float = 1.0) -> None:
        if not 0 < minimum <= maximum:
            raise ValueError(
                f"A width range needs 0 < minimum <= maximum, got ({minimum}, {maximum})."
            )
        self.minimum = float(minimum)
        self.maximum = float(maximum)
        self.shared = _Shared(self.maximum)

    @property
    def value(self) -> float:
        """The width in force: ``maximum`` unless inside :func:`at_width`."""
        return self.shared.value

    @property
    def is_full(self) -> bool:
        return self.shared.value == self.maximum

    def join(self, other: Width) -> None:
        """Share one value with ``other`` from now on; ValueError if the ranges differ."""
        if (self.minimum, self.maximum) != (other.minimum, other.maximum):
            raise ValueError(
                "Layers of one model must have one width range, got "
                f"({self.minimum}, {self.maximum}) and ({other.minimum}, {other.maximum})."
            )
        self.shared = other.shared

    def check(self, width: float) -> None:
        """ValueError unless ``width`` lies in the range."""
        if not self.minimum <= width <= self.maximum:
            raise ValueError(
                f"width={width} is outside the range of this model, "
                f"[{self.minimum}, {self.maximum}]."
            )


def width_of(model: nn.Module) -> Width:
    """
    The width of ``model``, one handle whatever the number of layers.

    ValueError if the model has no slimmable layer, or layers of different width ranges.
    """
    width: Width | None = model.__dict__.get("_width")
    if width is None:
        handles = [
            handle
            for module in model.modules()
            if isinstance(handle := getattr(module, "width", None), Width)
        ]
        if not handles:
            raise ValueError(f"{type(model).__name__} has no slimmable layer, so it has no width.")
        width = handles[0]
        for handle in handles[1:]:
            handle.join(width)
        # Found once: every later switch costs one look-up.
        model.__dict__["_width"] = width
    return width


def forget_width(module: nn.Module) -> None:
    """Drop the handles that a module holds on a width which no layer reads any more."""
    for name in [n for n, value in module.__dict__.items() if isinstance(value, Width)]:
        del module.__dict__[name]


@contextmanager
def at_width(
    model: nn.Module,
    width: float,
    *,
    track: bool = True,
    statistics: Statistics | None = None,
) -> Iterator[None]:
    """
    Run ``model`` at ``width``; what was in force before is restored on exit, also after an error.

    Backward belongs inside: activations that are recomputed need the same width. A second thread
    that wants a width of the same model waits until this block ends.

    Args:
        model: any module with slimmable layers.
        width: within the model's range, else ValueError.
        track: whether a pass in training mode at full width updates the running statistics. Pass
            False for a sub-network of full width, which sees images of another resolution.
        statistics: mean and variance by norm layer to normalise by. None: the batch's own in
            training mode, the running ones in evaluation mode.
    """
    handle = width_of(model)
    handle.check(width)
    with handle.shared.lock:
        shared = handle.shared
        before = shared.value, shared.statistics, shared.tracks
        shared.value, shared.statistics, shared.tracks = float(width), statistics, track
        try:
            yield
        finally:
            shared.value, shared.statistics, shared.tracks = before
