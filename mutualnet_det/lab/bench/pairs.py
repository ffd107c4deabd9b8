"""
Timing two ways to do one thing in turn.

Times on a shared machine drift, so what is compared is run in turn, in one process, and given as
the median of the ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tabulate import tabulate

from ...runtime.device import wait_for


@dataclass(frozen=True)
class TimedPair:
    """
    A timing of two ways to do one thing, in turn.

    Attributes:
        name: what is timed against what.
        milliseconds, baseline: median times, in ms.
        extra: median of the differences, pair by pair, in ms.
        ratio: median of the ratios, pair by pair.
    """

    name: str
    milliseconds: float
    baseline: float
    extra: float
    ratio: float

    @classmethod
    def of(cls, name: str, times: Sequence[tuple[float, float]]) -> TimedPair:
        """The medians of pairs of times, in ms."""
        return cls(
            name,
            statistics.median(mine for mine, _ in times),
            statistics.median(other for _, other in times),
            statistics.median(mine - other for mine, other in times),
            statistics.median(mine / other for mine, other in times),
        )


def time_pair(
    name: str,
    run: Callable[[], object],
    baseline: Callable[[], object],
    rounds: int,
    device: torch.device,
) -> TimedPair:
    """Time ``run`` and ``baseline`` in turn, after one round of both that does not count."""
    times: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        times.append((elapsed(run, device), elapsed(baseline, device)))
    return TimedPair.of(name, times[1:])


def elapsed(run: Callable[[], object], device: torch.device) -> float:
    """The ms that ``run`` takes, and ``device`` with what it is given."""
    wait_for(device)
    start = time.perf_counter()
    run()
    wait_for(device)
    return (time.perf_counter() - start) * 1000


def timings_table(pairs: Sequence[TimedPair]) -> str:
    """A line for each pair, to be printed."""
    rows = [(p.name, p.milliseconds, p.baseline, p.extra, p.ratio) for p in pairs]
    headers = ("", "ms", "baseline, ms", "extra, ms", "ratio")
    return tabulate(rows, headers, floatfmt=("", ".1f", ".1f", ".2f", ".3f"))
