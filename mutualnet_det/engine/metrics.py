"""Writers of a training: a progress line, JSON and TensorBoard; cut on resume."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils.events import (
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

from ..evaluation.latency import resident_memory
from ..files import replacing
from ..progress_log import clock
from .sampling import FULL, NARROWEST, RANDOM
from .timing import StepTimer

# Not this module's: with its name, the lines would be too long for a terminal.
logger = logging.getLogger("mutualnet_det")

# Iterations between two records, and under the medians of each.
WRITE_PERIOD = 20
# What the seconds per step of each part of it are called by, before the part's name.
SPLIT = "seconds/"
# The part that no other one is.
OTHER = "other"


def cut_metrics(path: str, start: int) -> None:
    """
    Drop what a metrics file holds of iterations from ``start`` on, atomically.

    A run that was killed wrote them after its last checkpoint; they will be computed again. A last
    line that was cut off mid-write goes too.
    """
    if not Path(path).is_file():
        return
    kept = []
    with Path(path).open() as file:
        for line in file:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if record.get("iteration", -1) < start:
                kept.append(line if line.endswith("\n") else line + "\n")
    with replacing(Path(path)) as file:
        file.writelines(kept)


class MeasureSteps(HookBase):
    """
    Put what the steps since the last record took into the storage, in time for the next record.

    In seconds per step ``seconds/<part>`` for the parts of the timer, and ``seconds/other`` for
    what is left of the step's time; ``data_share``, the share of the step that was waiting for
    data; ``images_per_second``; ``peak_memory_mib`` of this process, on the GPU if it has one;
    ``eta_seconds`` until the last iteration is done. All are means, without the first steps, which
    Detectron2's IterationTimer leaves out too: this hook comes after it and before the writers.

    Args:
        timer: of the trainer's steps.
        device: that the steps run on.
        num_images: in the batches of all processes.
        period: iterations between two records.
        pause_period: the most iterations between two pauses of a kind, such as evaluations. The
            time left has as many pauses in it as the last ``pause_period`` iterations had.
    """

    def __init__(
        self,
        timer: StepTimer,
        device: torch.device,
        *,
        num_images: int,
        period: int,
        pause_period: int,
    ) -> None:
        self._timer = timer
        self._device = device
        self._num_images = num_images
        self._period = period
        self._pause_period = pause_period
        self._num_steps = 0
        self._step_ended: float | None = None
        self._pauses: deque[float] = deque(maxlen=pause_period)  # s, after each of the last steps

    def before_step(self) -> None:
        if self._step_ended is not None:
            self._pauses.append(time.perf_counter() - self._step_ended)

    def after_step(self) -> None:
        if "time" not in self.trainer.storage.histories():
            self._timer.collect()
        else:
            self._num_steps += 1
            done = self.trainer.iter + 1
            if done % self._period == 0 or done == self.trainer.max_iter:
                self._put()
        self._step_ended = time.perf_counter()

    def _put(self) -> None:
        storage = self.trainer.storage
        times = storage.history("time")
        step = times.avg(self._num_steps)
        parts = {name: sum_ / self._num_steps for name, sum_ in self._timer.collect().items()}
        parts[OTHER] = max(step - sum(parts.values()), 0.0)
        self._num_steps = 0
        left = self.trainer.max_iter - self.trainer.iter - 1
        values = {f"{SPLIT}{name}": seconds for name, seconds in parts.items()}
        values["data_share"] = parts.get("data", 0.0) / step
        values["images_per_second"] = self._num_images / step
        values["eta_seconds"] = left * (times.median(1000) + sum(self._pauses) / self._pause_period)
        if (memory := process_peak_memory(self._device)) is not None:
            values["peak_memory_mib"] = memory
        for name, value in values.items():
            storage.put_scalar(name, value, smoothing_hint=False)


def process_peak_memory(device: torch.device) -> float | None:
    """
    The most that this process has held so far, in MiB.

    On a GPU what PyTorch allocated, else the resident set; None outside Linux.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        return resident_memory("VmHWM")
    except OSError:
        return None


class ProgressPrinter(EventWriter):
    """A log line: how far, time left, loss by kind of operating point, pace, rate, memory."""

    def __init__(self, max_iter: int) -> None:
        self._max_iter = max_iter

    def write(self) -> None:
        storage = get_event_storage()
        histories = storage.histories()
        latest = storage.latest().items()
        now = {name: value for name, (value, put_in) in latest if put_in == storage.iter}
        if storage.iter == self._max_iter or (latest and not now):  # the call after training
            return
        done = storage.iter + 1
        parts = [f"{done}/{self._max_iter} {done / self._max_iter:.0%}"]
        if "eta_seconds" in now:
            parts[0] += f" {clock(now['eta_seconds'])} left"
        losses = [
            f"{kind} {histories[f'{kind}/total_loss'].median(WRITE_PERIOD):.2f}"
            for kind in (FULL, NARROWEST, RANDOM)
            if f"{kind}/total_loss" in histories
        ]
        if losses:
            parts.append(f"loss {' '.join(losses)}")
        if "eta_seconds" in now:
            seconds = sum(value for name, value in now.items() if name.startswith(SPLIT))
            pace = f"{seconds:.3g} s/iter, {now['images_per_second']:.3g} img/s"
            parts.append(f"{pace}, data {now['data_share']:.0%}")
        state = [f"lr {now['lr']:.2g}"] if "lr" in now else []
        if "peak_memory_mib" in now:
            state.append(f"{now['peak_memory_mib']:.0f} MiB")
        if state:
            parts.append(", ".join(state))
        logger.info(" | ".join(parts))


def build_writers(output_dir: str, start: int, max_iter: int) -> list[EventWriter]:
    """
    Writers that continue at iteration ``start``: later records of an earlier try are cut.

    A record holds medians since the one before it; the first after a resume, since the resume.
    """
    path = str(Path(output_dir) / "metrics.json")
    cut_metrics(path, start)
    return [
        ProgressPrinter(max_iter),
        JSONWriter(path, window_size=WRITE_PERIOD),
        TensorboardXWriter(output_dir, window_size=WRITE_PERIOD, purge_step=start),
    ]
