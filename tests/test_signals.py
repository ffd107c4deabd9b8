"""Signals that ask a training to stop: who heeds them."""

import multiprocessing
import os
import signal
import subprocess
import time

from mutualnet_det.signals import (
    handling_stop_signals,
    leave_stop_signals,
    passing_on_stop_signals,
)

CONTEXT = multiprocessing.get_context("fork")


def test_handlers_are_put_back():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    heard = []
    with handling_stop_signals(lambda number, frame: heard.append(number)):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert heard == [signal.SIGUSR1]
    assert before == {number: signal.getsignal(number) for number in before}


def test_a_signal_that_is_ignored_stays_so():
    """As Ctrl-C is in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with handling_stop_signals(lambda number, frame: 1 / 0):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_parent_passes_signals_on():
    child = CONTEXT.Process(target=signal.pause)
    child.start()
    with passing_on_stop_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        child.join(20)
    assert child.exitcode == -signal.SIGTERM


def work(ready):
    leave_stop_signals()
    ready.set()
    while True:
        time.sleep(1)


def test_a_worker_ends_with_its_parent_alone():
    ready = CONTEXT.Event()
    worker = CONTEXT.Process(target=work, args=(ready,))
    worker.start()
    assert ready.wait(20)
    for name in ("INT", "USR1", "TERM"):  # from another process, as from a job's manager
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    worker.join(0.3)
    assert worker.exitcode is None
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0


def start_worker(pid):
    """Start one that waits without looking after its parent, and be killed."""
    ready = multiprocessing.get_context("forkserver").Event()
    worker = multiprocessing.get_context("forkserver").Process(target=work, args=(ready,))
    worker.start()
    pid.value = worker.pid
    ready.wait(20)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_ends_when_its_parent_has_been_killed():
    """Also where its parent in the system is another one, which lives on."""
    pid = CONTEXT.Value("i", 0)
    parent = CONTEXT.Process(target=start_worker, args=(pid,))
    parent.start()
    parent.join(40)
    try:
        for _ in range(100):
            os.kill(pid.value, 0)
            time.sleep(0.1)
    except ProcessLookupError:
        return
    os.kill(pid.value, signal.SIGKILL)
    raise AssertionError("the worker lives on")
