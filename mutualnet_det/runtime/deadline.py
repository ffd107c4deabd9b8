"""The deadline controller: which operating point each frame of a stream is given."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..errors import UserError
from ..slimmable import OperatingPoint
from .query_table import QueryTable

logger = logging.getLogger(__name__)

# Standard deviations of log latency above the median. A step up asks that 999 of 1000 frames will
# hold, a step down that fewer than 95 of 100 do: between the two nothing changes.
UP = 3.09
DOWN = 1.645
# Those of the 90 % quantile, from which the scatter is taken: rarer spikes, which a cheaper point
# would not spare, do not count.
NINETY = 1.2816
# The slowness is a median over the frames of a second, within these bounds; the scatter is that of
# the last MOST_FRAMES.
FEWEST_FRAMES, MOST_FRAMES = 10, 100
# Before anything is measured latencies are taken to scatter by 10 %; this weighs as much as
# FEWEST_FRAMES measured ones.
PRIOR_SCATTER = 0.1
# Seconds that a dearer point must have fitted, and that must have passed since the last change.
PATIENCE = 1.0
# Two frames that are too slow to be chance show that the machine has slowed; three where about 3
# fit in so many seconds, so that chance spikes are not taken for it.
ALARM = 0.2
# Frames after a step up by which the relative cost of the new point is learnt.
TRIAL_FRAMES = 5
# Seconds until a point that did not keep what was predicted may be tried again.
RETRY = 60.0
# Share of the frames that first frames after a step up may spoil: half of those that may be late.
SPOILT = 0.025


class DeadlineError(UserError, ValueError):
    """A period, a time or a point that the deadline controller cannot use."""


@dataclass(frozen=True)
class DeadlineReport:
    """
    Record of a stream's deadlines.

    Attributes:
        frames: frames recorded.
        held: those that took no longer than the period.
        changes: changes of point.
        points: frames by point; points without any are left out.
        slowness: latency now, as a multiple of the table's median (where the table has none, of one
            millisecond per GFLOP); None before it is measured.
        switch_seconds: what the first frame after a change takes longer; 0 before the first.
    """

    frames: int
    held: int
    changes: int
    points: dict[OperatingPoint, int]
    slowness: float | None
    switch_seconds: float

    @property
    def share(self) -> float:
        """Share of the deadlines held, from 0 to 1; 1 without frames."""
        return self.held / self.frames if self.frames else 1.0

    def __str__(self) -> str:
        slowness = "not measured" if self.slowness is None else f"{self.slowness:.3g}"
        return (
            f"{self.held} of {self.frames} deadlines held ({self.share:.1%}), "
            f"{self.changes} changes of point, slowness {slowness}"
        )


class DeadlineController:
    """
    Chooses the operating point of each frame of a stream: the highest AP that holds the deadline.

    ::

        controller = DeadlineController(table, period=0.040)
        for image in stream:
            with controller.frame() as point:
                ...  # all the work of the frame, waiting for the device included
        print(controller.report())

    Point i is predicted to take, in all but one frame of many,

        slowness * cost[i] * correction[i] * exp(z * scatter)    seconds

    - cost: the table's median latency; its GFLOPs, at one millisecond each, where it has none.
    - slowness: one factor for all points, as machines slow down for all of them alike: the idea of
      ALERT (Wan et al., USENIX ATC 2020), which follows it by a Kalman filter. Here it is the
      median over the frames of the last second, so that a spike does not move it; and two of three
      frames (three of four at periods below 80 ms) above what one in a thousand exceeds mean that
      the machine has slowed: earlier frames are forgotten and the lowest of these counts. So it
      rises within a few frames, and falls when half a second was faster.
    - correction: how far the point's cost relative to the others differs from the table's. A step
      up is made while the machine is steady, so what its first frames (five, or fewer if two are
      late) take more or less than was predicted is the point's. A point not yet tried takes the
      correction of the nearest one tried. A correction that made the point too slow is forgotten
      after a minute, or when the cheaper point is slow, too: then it was the machine.
    - scatter: standard deviation of log latency, from the 90 % quantile of the last 100 frames.

    The stream starts at the cheapest point. A point whose prediction at z = 1.645 (95 of 100
    frames) exceeds the period is left, for the best that fits at z = 3.09 (999 of 1000); a
    dearer point is taken when it has fitted at z = 3.09 for a second (at least ten frames) and as
    long has passed since the last change. Within that time of a change a point is left only if its
    median exceeds the period, or if two frames of a step up were late.

    The first frame after a change is slower (caches, memory, kernels of the new shapes). It tells
    nothing about the machine and is kept apart: what it takes longer is the cost of switching, the
    median of the last five. If it makes that first frame late, steps up are made so rarely that
    they spoil no more than 2.5 % of the frames.

    Each change is logged with the reason. A controller serves one stream, from one thread.

    Args:
        table: the points to choose from.
        period: seconds a frame may take.
        device: whose latencies in the table to begin with; may be left out unless it has several.
        clock: gives the time in seconds; another one lets a stream be simulated.

    Raises:
        DeadlineError: if ``period`` is not a positive finite number.
        BudgetError: for a device that the table lacks.
    """

    def __init__(
        self,
        table: QueryTable,
        period: float,
        *,
        device: str | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.period = _seconds("period", period)
        if device is None and not table.devices:
            entries = table.by_gflops()
            milliseconds = [entry.gflops for entry in entries]
        else:
            device = table.known_device(device)
            entries = table.by_latency(device)
            milliseconds = [entry.latency[device].p50 for entry in entries]
        self.points = tuple(entry.point for entry in entries)
        self._clock = clock
        self._start = clock()
        # Logarithms of seconds.
        self._costs = [math.log(told / 1e3) for told in milliseconds]
        self._gflops = [math.log(entry.gflops) for entry in entries]
        self._patience = max(PATIENCE, FEWEST_FRAMES * self.period)

        self._current = 0
        self._changed = self._start
        # Since when each point fits, None if it does not.
        self._fits_since: list[float | None] = [None] * len(self.points)
        self._told_hopeless = False

        # Logarithms of seconds / (cost * correction), of the frames the slowness goes by.
        frames = min(max(math.ceil(1 / self.period), FEWEST_FRAMES), MOST_FRAMES)
        self._window: deque[float] = deque(maxlen=frames)
        self._slowness: float | None = None
        self._alarm = min(max(round(ALARM / self.period), 2), 3)
        self._latest: deque[float] = deque(maxlen=self._alarm + 1)
        self._residuals: deque[float] = deque(maxlen=MOST_FRAMES)
        self._scatter = PRIOR_SCATTER
        # Logarithms, by the index of the points tried.
        self._corrections: dict[int, float] = {self._current: 0.0}
        self._trial: _Trial | None = None
        # When a point failed, and its correction before (None: it had none).
        self._failures: dict[int, tuple[float, float | None]] = {}
        self._switches: deque[float] = deque(maxlen=5)

        self._last: int | None = None
        self._frames: Counter[OperatingPoint] = Counter()
        self._held = 0
        self._changes = 0

    @contextmanager
    def frame(self) -> Iterator[OperatingPoint]:
        """Choose a point and record the time until the block ends; not if it ends in an error."""
        point = self.choose()
        start = self._clock()
        yield point
        self.record(point, self._clock() - start)

    def choose(self) -> OperatingPoint:
        """The point for the frame that starts now."""
        now = self._clock()
        if self._slowness is not None and self._trial is None:
            for index, (failed, _) in list(self._failures.items()):
                if now - failed > RETRY:
                    self._forget_failure(index)
            self._decide(now)
        return self.points[self._current]

    def _decide(self, now: float) -> None:
        fitting = []
        for index in range(len(self.points)):
            if self._predicted(index, UP) > self.period:
                self._fits_since[index] = None
                continue
            fitting.append(index)
            if self._fits_since[index] is None:
                self._fits_since[index] = now
        # So soon after a change, one frame of twenty is no reason to undo it; every other one is.
        danger = DOWN if now - self._changed >= self._patience else 0
        if self._predicted(self._current, danger) > self.period:
            fastest = min(range(len(self.points)), key=lambda i: self._predicted(i, 0))
            target = fitting[-1] if fitting else fastest
            if target != self._current:
                self._change(target, now, "too slow", DOWN)
            elif now - self._changed >= self._patience:
                self._tell_hopeless(now)
            return
        for index in reversed(fitting):
            if index <= self._current:
                return
            fitted = now - self._fits_since[index] >= self._patience
            if fitted and now - self._changed >= self._wait(index):
                self._told_hopeless = False
                self._trial = _Trial(index, before=self._current)
                self._change(index, now, "room for more", UP)
                return

    def _wait(self, index: int) -> float:
        """Seconds from the last change until a step up to this point."""
        if self._predicted(index, UP) + self._switch_seconds <= self.period:
            return self._patience
        late = math.ceil(self._switch_seconds / self.period)
        return max(self._patience, late * self.period / SPOILT)

    def _change(self, index: int, now: float, why: str, z: float) -> None:
        before, self._current = self._current, index
        self._changed = now
        self._changes += 1
        logger.info(
            "%.2f s: %s -> %s, %s: predicted %.1f ms -> %.1f ms of %.1f ms, slowness %.3g",
            now - self._start,
            self.points[before],
            self.points[index],
            why,
            1e3 * self._predicted(before, z),
            1e3 * self._predicted(index, z),
            1e3 * self.period,
            self._slowness_of(index),
        )

    def _tell_hopeless(self, now: float) -> None:
        if not self._told_hopeless:
            self._told_hopeless = True
            logger.warning(
                "%.2f s: even the fastest point, %s, needs %.1f ms of %.1f ms",
                now - self._start,
                self.points[self._current],
                1e3 * self._predicted(self._current, DOWN),
                1e3 * self.period,
            )

    def record(self, point: OperatingPoint, seconds: float) -> None:
        """
        Learn that a frame took ``seconds`` at ``point``.

        Raises:
            DeadlineError: if the point is not in the table, or the time not positive and finite.
        """
        if point not in self.points:
            raise DeadlineError(
                f"point must be one of {', '.join(map(str, self.points))}, got {point}"
            )
        seconds = _seconds("seconds", seconds)
        index = self.points.index(point)
        self._frames[point] += 1
        self._held += seconds <= self.period
        first = index != self._last
        change = first and self._last is not None
        self._last = index
        trial = self._trial if self._trial is not None and self._trial.index == index else None
        if first:
            if trial is not None:
                trial.first = seconds
            elif change and self._slowness is not None:
                self._learn_switch(index, seconds)
        elif trial is not None:
            trial.frames.append(seconds)
            self._learn_point(trial)
        else:
            # What the slowness is measured by must not move when a neighbour's correction does.
            self._corrections.setdefault(index, self._log_cost(index) - self._costs[index])
            self._learn_machine(math.log(seconds) - self._log_cost(index))

    def _learn_switch(self, index: int, seconds: float) -> None:
        self._switches.append(max(0.0, seconds - self._predicted(index, 0)))

    def _learn_machine(self, slowness: float) -> None:
        """Take in the slowness (logarithm) that a frame shows."""
        if self._slowness is not None:
            self._residuals.append(slowness - self._slowness)
            self._measure_scatter()
            self._latest.append(slowness)
            above = [s for s in self._latest if s - self._slowness > UP * self._scatter]
            if len(above) >= self._alarm:
                self._window.clear()
                self._latest.clear()
                slowness = min(above)
                for index, (failed, _) in list(self._failures.items()):
                    if self._clock() - failed <= self._patience:
                        self._forget_failure(index)
        self._window.append(slowness)
        self._slowness = statistics.median(self._window)

    def _measure_scatter(self) -> None:
        ordered = sorted(self._residuals)
        count = len(ordered)
        measured = max(0.0, ordered[math.ceil(0.9 * count) - 1]) / NINETY
        before = FEWEST_FRAMES * PRIOR_SCATTER
        self._scatter = (count * measured + before) / (count + FEWEST_FRAMES)

    def _learn_point(self, trial: _Trial) -> None:
        """Learn a point's correction when its trial is over: enough frames, or two were late."""
        late = sum(seconds > self.period for seconds in trial.frames) >= 2
        if not late and len(trial.frames) < TRIAL_FRAMES:
            return
        index, before = trial.index, self._corrections.get(trial.index)
        self._trial = None
        shown = statistics.median(map(math.log, trial.frames))
        self._corrections[index] = shown - self._costs[index] - self._slowness
        if late:
            now = self._clock()
            self._failures[index] = (now, before)
            if self._current == index:
                self._change(trial.before, now, "slower than predicted", DOWN)
        else:
            self._failures.pop(index, None)
        if trial.first is not None:
            self._learn_switch(index, trial.first)

    def _forget_failure(self, index: int) -> None:
        _, before = self._failures.pop(index)
        if before is None:
            del self._corrections[index]
        else:
            self._corrections[index] = before

    def _log_cost(self, index: int) -> float:
        """Logarithm of the corrected cost of a point, in seconds on a machine of slowness 1."""
        nearest = min(
            self._corrections, key=lambda tried: abs(self._gflops[tried] - self._gflops[index])
        )
        return self._costs[index] + self._corrections[nearest]

    def _predicted(self, index: int, z: float) -> float:
        return math.exp(self._slowness + self._log_cost(index) + z * self._scatter)

    def _slowness_of(self, index: int) -> float:
        return math.exp(self._slowness + self._log_cost(index) - self._costs[index])

    @property
    def _switch_seconds(self) -> float:
        return statistics.median(self._switches) if self._switches else 0.0

    def report(self) -> DeadlineReport:
        """Report what has become of the deadlines until now."""
        return DeadlineReport(
            frames=self._frames.total(),
            held=self._held,
            changes=self._changes,
            points={point: self._frames[point] for point in self.points if self._frames[point]},
            slowness=None if self._slowness is None else self._slowness_of(self._current),
            switch_seconds=self._switch_seconds,
        )


class _Trial:
    """The first frames after a step up, in seconds; the very first is apart."""

    def __init__(self, index: int, before: int) -> None:
        self.index = index
        self.before = before
        self.first: float | None = None
        self.frames: list[float] = []


def _seconds(name: str, value: float) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise DeadlineError(f"{name} must be a positive finite number of seconds, got {value!r}")
    return float(value)
