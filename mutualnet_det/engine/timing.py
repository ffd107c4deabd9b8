"""Times of the parts of a training step, measured without slowing it down."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# The parts of a training step, from first to last.
PARTS = (
    "data",
    "resize",
    "teacher_forward",
    "teacher_backward",
    "student_forward",
    "student_backward",
    "reduce",
    "optimizer",
)


class StepTimer:
    """
    Adds up the seconds of named parts of the steps: ``with timer("optimizer"): ...``.

    A part inside another one is not counted in the outer one as well, so that parts never add up to
    more than the whole; a part that comes several times is their sum.

    On a GPU a part lasts as long as the GPU is at it, from marks put between its kernels: nothing
    waits for them before :meth:`collect`. A part that the host alone works at, such as waiting for
    data, then lasts as long as it leaves the GPU idle.

    Args:
        device: where the steps run.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._on_gpu = self._device.type == "cuda"
        self._open: list[str] = []
        # Of the part that is open: where what has not been counted of it begins.
        self._since: float | torch.cuda.Event = 0.0
        self._intervals: list[tuple[str, float | torch.cuda.Event, float | torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Count what happens inside for ``part``."""
        self._switch()
        self._open.append(part)
        try:
            yield
        finally:
            self._switch()
            self._open.pop()

    def collect(self) -> dict[str, float]:
        """Seconds of each part since the last call; on a GPU, once it has finished them."""
        intervals, self._intervals = self._intervals, []
        if self._on_gpu and intervals:
            intervals[-1][-1].synchronize()
        seconds: dict[str, float] = {}
        for part, start, end in intervals:
            lasted = start.elapsed_time(end) / 1000 if self._on_gpu else end - start
            seconds[part] = seconds.get(part, 0.0) + lasted
        return seconds

    def _switch(self) -> None:
        """Count the time up to now to the part that is open."""
        now = self._now()
        if self._open:
            self._intervals.append((self._open[-1], self._since, now))
        self._since = now

    def _now(self) -> float | torch.cuda.Event:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
