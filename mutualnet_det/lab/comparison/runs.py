"""
Carrying a plan out: every run is an ordinary training and an ordinary evaluation in processes of
their own, several runs at a time. What is finished is not done again; what was killed continues.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import operator
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detectron2.config import get_cfg

from ...config import add_mutualnet_config, flattened
from ...errors import UserError
from ...files import draft_of, replacing, sha256_of
from ...locks import FileLock, LockedError
from ...progress_log import ProgressLog, clock
from ...signals import end_with_parent
from .plan import PlanError, Pretraining, Training

logger = logging.getLogger(__name__)

LOG_PERIOD = 30.0  # s
POLL_PERIOD = 0.2  # s
# Processes of a comparison that was killed save what they have and end.
LOCK_TIMEOUT = 60.0  # s
# What may differ between a run as it was begun and as it is continued: no result depends on it.
_FREE_KEYS = (
    *("OUTPUT_DIR", "DATALOADER.NUM_WORKERS"),
    *("SOLVER.CHECKPOINT_PERIOD", "MUTUALNET.CHECKPOINTS_KEPT"),
)
# What only its evaluation depends on.
_EVALUATION_KEYS = ("points", "DATASETS.TEST")
# What to do about a folder that holds another run.
_ANEW = "Delete the folder to run it anew, or choose another output in the plan."

Commands = Callable[[Training], Sequence[Sequence[str]]]


class RunsError(UserError, RuntimeError):
    """Runs that failed; the message names each with its log."""


def tool_commands(run: Training) -> list[list[str]]:
    """Return the command lines of a run: training, then evaluation."""

    def command(name: str, *arguments: str) -> list[str]:
        words = [sys.executable, "-m", "mutualnet", name, "--config-file", run.base, "--resume"]
        return [*words, *arguments]

    if isinstance(run, Pretraining):
        return [command("pretrain", *run.options)]
    points = ["--points", *map(str, run.points)]
    weights = ["MODEL.WEIGHTS", str(run.weights)]
    return [
        command("train", *run.options),
        command("evaluate", *points, *run.options, *weights),
    ]


def is_finished(run: Training) -> bool:
    """Tell whether a run has been trained, and evaluated as the plan says now."""
    if not (run.folder / "run.json").exists():
        return False
    kept = _read(run)
    return kept["finished"] and _evaluates_as(run, kept)


def _content(run: Training) -> dict[str, object]:
    """The contents of a run: the keys of its config, and the points that are evaluated."""
    return {**flattened(run.cfg), "points": [str(point) for point in run.points]}


def _evaluates_as(run: Training, kept: Mapping) -> bool:
    noted, expected = {**kept["config"], "points": kept["points"]}, _content(run)
    return all(noted.get(key) == expected.get(key) for key in _EVALUATION_KEYS)


def runs_at_a_time(run: Training) -> int:
    """The most runs that shared the machine when a finished one was at work."""
    return _read(run)["at_a_time"]


def seconds_taken(run: Training) -> float | None:
    """The time of a finished run; None if it was interrupted on the way or nobody noted it."""
    return _read(run)["seconds"]


def check_folder(run: Training) -> None:
    """
    PlanError if the folder of a run holds another run, one that started from other weights, or
    something else.
    """
    path = run.folder / "run.json"
    if not path.exists():
        # A draft is of one that was killed before anything else.
        ours = {"lock", draft_of(path).name}
        if run.folder.is_dir() and {path.name for path in run.folder.iterdir()} - ours:
            raise PlanError(f"{run.folder} holds something else than a run: there is no run.json.")
        return
    kept = _read(run)
    # A key that came with a later version of the code had its default.
    noted = {**_defaults(), **kept["config"], "points": kept["points"]}
    expected = _content(run)
    # Finished elsewhere, it can be told of here.
    free = (*_FREE_KEYS, "MODEL.DEVICE") if kept["finished"] else _FREE_KEYS
    differing = [
        key
        for key in {**expected, **noted}
        if key not in free and noted.get(key) != expected.get(key)
    ]
    evaluation = run.folder / "grid"
    advice = _ANEW
    if set(differing) <= set(_EVALUATION_KEYS):  # its training stays
        advice = f"Delete {evaluation} to evaluate it anew, or choose another output in the plan."
        differing = differing if evaluation.exists() else []
    if differing:
        key = differing[0]
        raise PlanError(
            f"{run.folder} holds a run with {key} {noted.get(key)!r}, and the plan says "
            f"{expected.get(key)!r}. {advice}"
        )
    weights = _digest(run)
    if None not in (weights, kept["weights"]) and weights != kept["weights"]:
        raise PlanError(
            f"{run.folder} holds a run that started from other weights than those that are now in "
            f"{run.cfg.MODEL.WEIGHTS}. {_ANEW}"
        )


def begin(run: Training) -> None:
    """Make the folder of a run and note what it is of. PlanError: see :func:`check_folder`."""
    check_folder(run)
    weights = _digest(run)
    if (run.folder / "run.json").exists():
        kept = _read(run)
        if _evaluates_as(run, kept):
            return
        weights = kept["weights"]
    content = _content(run)
    points = content.pop("points")
    told = {"config": content, "points": points, "weights": weights}
    _write(run, {**told, "finished": False, "at_a_time": 0})


def _digest(run: Training) -> str | None:
    """SHA-256 of the file that a run starts from; None where there is none, or none yet."""
    path = Path(run.cfg.MODEL.WEIGHTS)
    return _sha256_at(path, path.stat().st_mtime_ns) if path.is_file() else None


@functools.cache
def _sha256_at(path: Path, changed: int) -> str:
    """The digest, kept: all runs of a plan ask for that of the same file."""
    return sha256_of(path)


@functools.cache
def _defaults() -> dict[str, object]:
    cfg = get_cfg()
    add_mutualnet_config(cfg)
    return flattened(cfg)


def _read(run: Training) -> dict:
    path = run.folder / "run.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        needed = {key: kept[key] for key in ("config", "points", "finished", "at_a_time")}
        # These came with a later version.
        return {**needed, "seconds": kept.get("seconds"), "weights": kept.get("weights")}
    except (ValueError, KeyError, TypeError) as error:
        raise PlanError(
            f"{path} is not what a comparison wrote: {error!r}. Delete its folder."
        ) from error


def _write(run: Training, content: dict) -> None:
    with replacing(run.folder / "run.json") as file:
        json.dump(content, file, indent=1)


def steps_done(run: Training) -> int:
    """Iterations that the metrics of a run have a record of."""
    try:
        lines = (run.folder / "metrics.json").read_text().splitlines()
        return int(json.loads(lines[-1])["iteration"]) + 1
    except (OSError, ValueError, KeyError, IndexError):  # not begun, or in the middle of a line
        return 0


@contextlib.contextmanager
def locked(folder: Path, *, patient: bool = False) -> Iterator[FileLock]:
    """
    The lock on the folder of a comparison, which its runs hold too: see :func:`run_all`.

    Args:
        patient: wait until another comparison that is at work there has ended.

    Raises:
        RunsError: if another comparison is at work there, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(
            folder / "lock",
            timeout=math.inf if patient else LOCK_TIMEOUT,
            on_wait=lambda: logger.info("Waiting for another comparison in %s to end", folder),
        )
    except LockedError as error:
        raise RunsError(
            f"Another comparison is at work in {folder}. Wait until it has finished, stop it, or "
            "choose another output in the plan."
        ) from error
    except OSError as error:
        raise RunsError(f"{folder} cannot be written: {error.strerror}.") from error
    with lock:
        yield lock


@dataclass
class _Active:
    """A run at work: its commands that are left, and the process of the one that is not."""

    run: Training
    commands: list[Sequence[str]]
    variables: dict[str, str]
    lock: FileLock
    process: subprocess.Popen = field(init=False)
    begun: float | None = field(init=False)  # s; None if that was in an earlier comparison

    def __post_init__(self) -> None:
        self.begun = None if (self.run.folder / "run.log").exists() else time.monotonic()
        self.start_next()

    def start_next(self) -> None:
        with (self.run.folder / "run.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.commands.pop(0),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.variables},
                pass_fds=(self.lock.fileno(),),
                preexec_fn=end_with_parent if sys.platform == "linux" else None,
            )

    def __str__(self) -> str:
        if not self.commands and self.run.points:
            return f"{self.run.name}: evaluating"
        return f"{self.run.name}: {steps_done(self.run)}/{self.run.steps}"


def run_all(
    runs: Sequence[Training],
    commands: Commands,
    environments: Sequence[dict[str, str]],
    lock: FileLock,
) -> dict[Training, int]:
    """
    Run what is not finished, as many runs at a time as there are environments.

    Args:
        commands: the command lines of a run, each after the one before it has ended well.
        environments: of the processes: variables on top of this process's own.
        lock: see :func:`locked`.

    Returns:
        the exit status of those that failed; the others go on.

    Raises:
        PlanError: see :func:`check_folder`; nothing has run then.
    """
    for run in runs:
        check_folder(run)
    pending = [run for run in runs if not is_finished(run)]
    at_a_time = min(len(environments), len(pending))
    free = list(environments)
    active: list[_Active] = []
    failed: dict[Training, int] = {}
    log = _Log(runs, pending, at_a_time)
    try:
        while pending or active:
            while pending and free:
                run = pending.pop(0)
                begin(run)
                active.append(_Active(run, [*commands(run)], free.pop(0), lock))
            for job in list(active):
                status = job.process.poll()
                if status is None:
                    continue
                if status == 0 and job.commands:
                    job.start_next()
                    continue
                active.remove(job)
                free.append(job.variables)
                if status == 0:
                    seconds = None if job.begun is None else time.monotonic() - job.begun
                    told = {"finished": True, "at_a_time": at_a_time, "seconds": seconds}
                    _write(job.run, {**_read(job.run), **told})
                    logger.info("Finished %s", job.run.name)
                else:
                    failed[job.run] = status
                    logger.error("%s", failure(job.run, status))
            log.update(active, failed)
            time.sleep(POLL_PERIOD)
    finally:
        for job in active:
            job.process.terminate()
        for job in active:
            job.process.wait()
    return failed


def failure(run: Training, status: int) -> str:
    """The end of a run that failed: its status, its log and the last line there."""
    path = run.folder / "run.log"
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return f"{run.name} ended with {how}; {path} ends with: {last}"


def expected_seconds(runs: Sequence[Training]) -> list[float]:
    """
    Expect of each run the mean of those like it, with any seed, that have finished.

    Where there are none, GFLOPs tell, at the mean speed of those where there are some. They alone
    mislead: a step of a cheap network takes longer than its share of them. As long as no run has
    finished, they are told as if a GFLOP took a second.
    """
    gflops = {run: run.gflops_per_step * run.steps for run in runs}
    taken: dict[str, list[float]] = {}
    for run in runs:
        if seconds := _known_seconds(run):
            taken.setdefault(run.title, []).append(seconds)
    means = {title: statistics.fmean(seconds) for title, seconds in taken.items()}
    pace = 1.0
    if known := [run for run in runs if run.title in means]:
        pace = sum(means[run.title] for run in known) / sum(gflops[run] for run in known)
    return [means.get(run.title, pace * gflops[run]) for run in runs]


def _known_seconds(run: Training) -> float | None:
    return seconds_taken(run) if is_finished(run) else None


class _Log:
    """
    Logs how far all runs are; work is measured in the time that it is expected to take.

    The time left comes from how long runs took, those of an earlier comparison too; as long as
    none has finished, from the pace of this one.
    """

    def __init__(
        self, runs: Sequence[Training], pending: Sequence[Training], at_a_time: int
    ) -> None:
        self._runs = runs
        self._at_a_time = at_a_time
        self._before = self._progress(())
        self._log = ProgressLog(LOG_PERIOD)
        if len(pending) < len(runs):
            logger.info("%d of %d runs are finished already", len(runs) - len(pending), len(runs))

    def _progress(self, failed: Collection[Training]) -> list[float]:
        """The part of each run that is done, up to 1; one that failed is not waited for."""
        return [
            # An evaluation takes time too: a training alone is not the whole of a run.
            1.0 if run in failed or is_finished(run) else 0.85 * steps_done(run) / run.steps
            for run in self._runs
        ]

    def update(self, active: Sequence[_Active], failed: dict[Training, int]) -> None:
        if not self._log.is_due():
            return
        work = expected_seconds(self._runs)
        progress = self._progress(failed)
        done = sum(map(operator.mul, work, progress))
        remaining = [seconds * (1 - part) for seconds, part in zip(work, progress, strict=True)]
        if any(map(_known_seconds, self._runs)):
            # Runs go side by side, and none is divided.
            left: str | None = clock(max(sum(remaining) / self._at_a_time, *remaining))
        else:
            before = sum(map(operator.mul, work, self._before))
            left = self._log.time_left(done - before, sum(remaining))
        finished = sum(is_finished(run) for run in self._runs)
        logger.info(
            "%d of %d runs finished%s, %.1f %% of the work; left: %s; at work: %s",
            *(finished, len(self._runs), f", {len(failed)} failed" if failed else ""),
            *(100 * done / sum(work), f"about {left}" if left else "unknown"),
            "; ".join(map(str, active)) or "none",
        )
