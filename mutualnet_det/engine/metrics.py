"""What training writes while it runs: a progress line, JSON and TensorBoard; cut on resume."""

from __future__ import annotations

import datetime
import json
import logging
import os

import torch
from detectron2.utils.events import (
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

from .sampling import FULL, NARROWEST, RANDOM

logger = logging.getLogger(__name__)

# Iterations between two records, and under the medians of each.
WRITE_PERIOD = 20


def cut_metrics(path: str, start: int) -> None:
    """
    Drop what a metrics file holds of iterations from ``start`` on, atomically.

    A run that was killed wrote them after its last checkpoint; they will be computed again. A last
    line that was cut off mid-write goes too.
    """
    if not os.path.isfile(path):
        return
    kept = []
    with open(path) as file:
        for line in file:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if record.get("iteration", -1) < start:
                kept.append(line if line.endswith("\n") else line + "\n")
    with open(path + ".tmp", "w") as file:
        file.writelines(kept)
    os.replace(path + ".tmp", path)


class ProgressPrinter(EventWriter):
    """One log line: time left, iteration, loss by kind of operating point, pace, learning rate."""

    def __init__(self, max_iter: int) -> None:
        self._max_iter = max_iter

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:  # the call after training
            return
        histories = storage.histories()
        losses = [
            f"{kind} {histories[f'{kind}/total_loss'].median(20):.3f}"
            for kind in (FULL, NARROWEST, RANDOM)
            if f"{kind}/total_loss" in histories
        ]
        line = f"iter {storage.iter + 1}/{self._max_iter}  loss: {'  '.join(losses)}"
        if "time" in histories:
            seconds = histories["time"].median(1000)
            left = datetime.timedelta(seconds=int(seconds * (self._max_iter - storage.iter - 1)))
            line = f"left {left}  {line}  {seconds:.3f} s/iter"
            line += f" (data {histories['data_time'].avg(20):.3f} s)"
        if "lr" in histories:
            line += f"  lr {histories['lr'].latest():.3g}"
        if torch.cuda.is_available():
            line += f"  {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB"
        logger.info(line)


def build_writers(output_dir: str, start: int, max_iter: int) -> list[EventWriter]:
    """
    Writers that continue at iteration ``start``: later records of an earlier try are cut.

    A record holds medians since the one before it; the first after a resume, since the resume.
    """
    path = os.path.join(output_dir, "metrics.json")
    cut_metrics(path, start)
    return [
        ProgressPrinter(max_iter),
        JSONWriter(path, window_size=WRITE_PERIOD),
        TensorboardXWriter(output_dir, window_size=WRITE_PERIOD, purge_step=start),
    ]
