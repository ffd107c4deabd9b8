"""
Processes that train together watch each other, so that the end of one is not a wait for ever.

A collective waits for a process that will never come. Each process therefore reports from a thread
to the store that the processes met at, and looks at the next one (the last at the first): if that
has died, all end with the cause.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch.distributed as dist
from detectron2.engine import HookBase

from ..distributed import SharedError

logger = logging.getLogger(__name__)

# Seconds between two reports, and without one that end a training: inside its steps, and outside,
# where reading a large file or scoring may keep the thread from reporting.
PERIOD = 1.0
LIMIT = 30.0
LIMIT_OUTSIDE = 600.0
# The last report: of a process that is done with all the others, and of any other.
ENDED, LEFT = "ended", "left"


class Watch:
    """
    Ends this process, with exit status 1 and the cause, when another one has died or is stuck.

    A process of the same machine has died when it is gone, another one when it has not reported for
    too long. Working for long is no reason: the thread reports meanwhile. One that has left before
    all were done, as when it alone is asked to stop, ends the others a while after it.

    Args:
        store: that the processes met at.
        rank, world_size: this process and how many there are.

    Attributes:
        in_step: whether the work at hand leaves the thread time to report, as a training step does.
        is_alone: whether torchrun, which started the processes and keeps their store, has ended:
            they can finish their step and save.

    Used as a context manager around all that the processes do together.
    """

    def __init__(self, store: dist.Store, rank: int, world_size: int) -> None:
        # A connection of its own: the thread must not wait for what waits in the process's.
        self._store = dist.PrefixStore("watch", store.clone())
        self._rank = rank
        self._next = (rank + 1) % world_size
        self.in_step = False
        self.is_alone = False
        self._ended = threading.Event()
        self._count = 0  # of reports
        self._processes: dict[int, dict] = {}
        self._thread = threading.Thread(target=self._run, daemon=True, name="watch")

    def __enter__(self) -> Watch:
        me = {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine()}
        self._store.set(f"process/{self._rank}", json.dumps(me))
        self._about(0)  # while it can be asked
        self._thread.start()
        threading.Thread(target=self._guard, daemon=True, name="watch guard").start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, SharedError):
            if _is_of_communication(error):
                # Most likely another process's end: the thread finds out whose, and ends this one.
                # Whoever started both asks for that too, but would leave no time to say why.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                self._thread.join(LIMIT + 10 * PERIOD)
            self._fail(f"{self._who(self._rank)} has stopped: {type(error).__name__}: {error}")
        self._ended.set()
        self._thread.join(PERIOD)  # its report must not come after this one
        with suppress(RuntimeError):  # the process that keeps the store has ended already
            self._store.set(f"report/{self._rank}", ENDED if kind is None else LEFT)

    @property
    def _limit(self) -> float:
        return LIMIT if self.in_step else LIMIT_OUTSIDE

    def _run(self) -> None:
        last, silent = b"", 0.0
        while not self._ended.wait(PERIOD):
            self._count += 1
            try:
                self._store.set(f"report/{self._rank}", f"{self._count} {self._limit}")
                if self._store.check(["failed"]):
                    self._end(self._store.get("failed").decode())
                if not self._store.check([f"report/{self._next}"]):
                    continue
                report = self._store.get(f"report/{self._next}")
                if report.decode() == ENDED:
                    continue
                # Counted in own periods, not by the clock: all may have slept together.
                silent = 0.0 if report != last else silent + PERIOD
                last = report
                if report.decode() == LEFT:
                    if silent >= LIMIT:
                        self._fail(f"{self._who(self._next)} has stopped before the others")
                    continue
                limit = float(report.split()[1])
                if self._is_gone(self._next):
                    self._fail(f"{self._who(self._next)} has died")
                elif silent >= limit:
                    self._kill(self._next)
                    self._fail(f"{self._who(self._next)} has not reported for {silent:.0f} s")
            except RuntimeError:
                if self._ended.wait(2 * PERIOD):  # the training ends here and now
                    return
                if not store_is_torchruns() or self._is_gone(0):
                    self._end_without_store()
                # The guard ends what cannot stop by itself, as where the machine is gone too.
                logger.critical("torchrun has ended. Stopping after this step, with a checkpoint.")
                self.is_alone = True
                return

    def _guard(self) -> None:
        """The thread that reports waits for ever when the store does not answer."""
        last, waited = 0, 0.0
        while not self._ended.wait(PERIOD):
            waited = 0.0 if self._count != last else waited + PERIOD
            last = self._count
            if waited >= self._limit:
                self._end_without_store()

    def _end_without_store(self) -> None:
        self._kill(0)
        cause = f"{self._who(0)} has died, or its machine cannot be reached any more"
        self._end(cause, is_finder=True)

    def _fail(self, cause: str) -> None:
        """Tell the others; a process that stops by itself goes its own way."""
        first = cause
        with suppress(RuntimeError):  # without a store, the others find out by that
            # The end of the process that found the first cause is none.
            first = self._store.compare_set("failed", "", cause).decode()
        if threading.current_thread() is self._thread:
            self._end(first, is_finder=first == cause)

    def _end(self, cause: str, is_finder: bool = False) -> None:
        logger.critical(cause)
        if is_finder or self._rank == 0:
            sys.stderr.write(f"error: {cause}\n")
            sys.stderr.flush()
        if self._rank == 0 and not store_is_torchruns():
            time.sleep(2 * PERIOD)  # until the others have read the cause: their store ends too
        os._exit(1)  # the main thread may wait in a collective for ever

    def _about(self, rank: int) -> dict:
        if rank not in self._processes:
            self._processes[rank] = json.loads(self._store.get(f"process/{rank}"))
        return self._processes[rank]

    def _who(self, rank: int) -> str:
        about = self._about(rank)
        return f"rank {rank} on {about['host']} (pid {about['pid']})"

    def _pid(self, rank: int) -> int | None:
        """Number of a process on this machine; None if it is on another."""
        about = self._about(rank)
        return about["pid"] if about["machine"] and about["machine"] == _machine() else None

    def _is_gone(self, rank: int) -> bool:
        pid = self._pid(rank)
        if pid is None:
            return False
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return True
        return stat.rpartition(")")[2].split()[0] in "ZX"  # killed, but its parent has not noticed

    def _kill(self, rank: int) -> None:
        """Kill a process that would not heed whoever started it, and keep a GPU's memory."""
        pid = self._pid(rank)
        if pid is not None:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def store_is_torchruns() -> bool:
    """Tell whether torchrun keeps the store, and not the first process."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _machine() -> str:
    """Name shared by processes that see each other's numbers; empty outside Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _is_of_communication(error: Exception) -> bool:
    # Gloo raises bare RuntimeErrors, which name its source files.
    return isinstance(error, dist.DistError) or (
        type(error) is RuntimeError and any(x in str(error) for x in ("gloo", "NCCL", "Connection"))
    )


# The watch of this process, if it trains with others.
_watch: Watch | None = None


@contextmanager
def watched(store: dist.Store, rank: int, world_size: int) -> Iterator[None]:
    """Watch the other processes meanwhile; see :class:`Watch`."""
    global _watch
    with Watch(store, rank, world_size) as _watch:
        try:
            yield
        finally:
            _watch = None


def is_alone() -> bool:
    """Tell whether this process trains with others, and torchrun, which started them, has ended."""
    return _watch is not None and _watch.is_alone


class WatchSteps(HookBase):
    """
    Give up a process that does not report sooner inside a step than outside.

    Used as the first hook, so that what others do after a step is outside.
    """

    def before_step(self) -> None:
        self._set(True)

    def after_step(self) -> None:
        self._set(False)

    def after_train(self) -> None:
        self._set(False)  # a step may have failed

    def _set(self, in_step: bool) -> None:
        if _watch is not None:
            _watch.in_step = in_step
