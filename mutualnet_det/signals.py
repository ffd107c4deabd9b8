"""The signals that ask a training to stop, and who in its tree of processes heeds them."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

# Of batch systems and service managers; the warning before a time limit (Slurm: --signal=USR1@60);
# and Ctrl-C. Windows has no SIGUSR1.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)
)
# Exit status of a training that was asked to stop and can be continued: sysexits.h's EX_TEMPFAIL,
# "try again later". A shell gives 128 and more for a process that a signal ended.
EXIT_STOPPED = 75
# Seconds in which a process that leaves stop signals to another notices that it has ended.
PERIOD = 1.0


def stopped_status() -> int:
    """
    Exit status of a training that was asked to stop: ``EXIT_STOPPED``, or 0 where torchrun would
    take any other one for a failure, and start the training again.
    """
    return 0 if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) else EXIT_STOPPED


@contextlib.contextmanager
def handling_stop_signals(handler: Callable) -> Iterator[None]:
    """Have ``handler`` called for them meanwhile; not in a thread, to which none ever come."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # One that is ignored, as Ctrl-C is in the background of a script, stays so.
    heeded = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextlib.contextmanager
def passing_on_stop_signals() -> Iterator[None]:
    """Pass them on to the processes that this one has started, and wait for those to stop."""

    def pass_on(number: int, frame: object) -> None:
        for process in multiprocessing.active_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

    with handling_stop_signals(pass_on):
        yield


def leave_stop_signals(worker: int = 0) -> None:
    """
    Ignore them: for a process that ends when the one that started it says so, or ends.

    They come to all processes of a terminal or a job, and a training cannot finish its step once a
    worker of its loader has ended.
    """
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigtimedwait"):  # macOS does not say where a signal comes from
        return
    # Python's way to end a process that it has started: heeded if it comes from there, which is not
    # always this process's parent in the system.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    parent = multiprocessing.parent_process()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    while parent.is_alive():
        received = signal.sigtimedwait({signal.SIGTERM}, PERIOD)
        if received is not None and received.si_pid == parent.pid:
            break
    os._exit(0)


def end_with_parent() -> None:
    """On Linux, have this process told to end, by SIGTERM, when the one that started it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
