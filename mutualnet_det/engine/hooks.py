"""Hooks between the steps of a training: checkpoints, statistics, metrics, and the end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventWriter

from ..checkpoint import NotWrittenError, name_of
from ..compat import cpu_group
from ..distributed import sharing_errors
from ..signals import handling_stop_signals, stopped_status
from .watch import is_alone

logger = logging.getLogger(__name__)

# Seconds in which the same request comes more than once: from a job's manager to all processes, and
# from the process that started this one.
ONE_REQUEST = 1.0
# The file that tells a batch script to go on, where torchrun's exit status does not.
STOPPED = "stopped"


@contextlib.contextmanager
def going_on_without(what: str) -> Iterator[None]:
    """Log that ``what`` cannot be written, as on a full disk, and let the training go on."""
    try:
        yield
    except (NotWrittenError, OSError) as error:
        logger.error("%s is missing, and training goes on without it: %s", what, error)


class SaveCheckpoint(HookBase):
    """
    Save every ``period`` iterations, and after the last one.

    Training goes on without a checkpoint that cannot be written, until the next one.
    """

    def __init__(self, period: int) -> None:
        self._period = period
        self._saved = -1  # the iteration of the last checkpoint that could be written

    def after_step(self) -> None:
        iteration = self.trainer.iter
        due = (iteration + 1) % self._period == 0 or iteration + 1 == self.trainer.max_iter
        if due and self._saved != iteration:  # an evaluation may have asked for it before
            with going_on_without("A checkpoint"):
                self.trainer.checkpointer.save(name_of(iteration))
                self._saved = iteration


class RefreshStatistics(HookBase):
    """Recompute frozen statistics every ``period`` iterations."""

    def __init__(self, period: int) -> None:
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 and done < self.trainer.max_iter:
            self.trainer.refresh_statistics()


class TolerantWriter(EventWriter):
    """A writer of metrics whose failure, as on a full disk or without a network, is a message."""

    def __init__(self, writer: EventWriter) -> None:
        self._writer = writer
        self._fails = False

    def write(self) -> None:
        self._try(self._writer.write)

    def close(self) -> None:
        self._try(self._writer.close)

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # loggers raise their own kinds
            if not self._fails:
                name = type(self._writer).__name__
                logger.error("%s cannot write: %s. Training goes on without it.", name, error)
            self._fails = True
        else:
            self._fails = False


class StopOnSignal(HookBase):
    """
    End a training that is asked to, by one of ``STOP_SIGNALS``, with :func:`stopped_status`.

    The file ``stopped`` in its folder then says so, until it is continued. Between the first and
    the last step, the step in hand is finished and a checkpoint saved, after the same step in all
    processes that train together, whichever of them was asked; before and after, there is nothing
    to save. Asked once more, the process ends at once. Used as the last hook, and as a context
    manager around all of the training.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / STOPPED
        self._asked: signal.Signals | None = None
        self._asked_at = 0.0
        self._steps = False
        self._handling = contextlib.ExitStack()

    def __enter__(self) -> StopOnSignal:
        if comm.is_main_process():
            self._file.unlink(missing_ok=True)
        self._handling.enter_context(handling_stop_signals(self._ask))
        return self

    def __exit__(self, *error: object) -> None:
        self._handling.close()

    def _ask(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if self._asked is None:
            self._asked, self._asked_at = signal.Signals(number), now
            if not self._steps:
                _tell("Nothing is lost. Add --resume to continue.")
                self._stop(self._asked, "with nothing to save")
            _tell(
                "Stopping after this step, or the evaluation that is at work, with a checkpoint. "
                "Ask again to end at once."
            )
        elif now - self._asked_at > ONE_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def before_train(self) -> None:
        self._steps = True

    def after_step(self) -> None:
        asked = self._anyone_asked()
        if asked:
            with sharing_errors():
                self._save()
            when = f"after iteration {self.trainer.iter}"
            logger.warning("Stopped by %s %s. Add --resume to continue.", asked.name, when)
            self._stop(asked, when)
        self._steps = self.trainer.iter + 1 < self.trainer.max_iter

    def after_train(self) -> None:
        self._steps = False

    def _stop(self, asked: signal.Signals, when: str) -> NoReturn:
        if comm.is_main_process():
            with contextlib.suppress(OSError):
                self._file.write_text(f"{asked.name} {when}\n", encoding="utf-8")
        raise SystemExit(stopped_status())

    def _save(self) -> None:
        checkpointer, name = self.trainer.checkpointer, name_of(self.trainer.iter)
        if Path(checkpointer.get_checkpoint_file()).name != f"{name}.pth":
            checkpointer.save(name)

    def _anyone_asked(self) -> signal.Signals | None:
        """The signal; None if no process was asked."""
        mine = self._asked or (signal.SIGTERM if is_alone() else 0)
        asked = torch.tensor(int(mine))
        if comm.get_world_size() > 1:
            # On the CPU: no GPU waits for it.
            dist.all_reduce(asked, dist.ReduceOp.MAX, group=cpu_group())
        return signal.Signals(int(asked)) if asked else None


def _tell(text: str) -> None:
    """Print from a signal's handler, which may not log: a log line may be half written."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
