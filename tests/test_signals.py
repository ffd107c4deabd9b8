"""Signals that ask a training to stop: who heeds them."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

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


ORPHAN = """
import multiprocessing, os, signal, time
from mutualnet_det.signals import leave_stop_signals

def work(ready):
    leave_stop_signals()
    ready.set()
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    ready = context.Event()
    context.Process(target=work, args=(ready,), daemon=True).start()
    assert ready.wait(60)
    print("ready", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="this system does not watch")
def test_a_worker_ends_when_its_parent_has_been_killed(tmp_path):
    """Also where its parent in the system is another one, which lives on."""
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    # A program of its own: a fork of this one cannot use the fork server of this one.
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, start_new_session=True
    ) as parent:
        try:
            assert parent.stdout.readline() == b"ready\n"
            parent.communicate(timeout=10)  # the output ends with the last process that holds it
            assert parent.returncode == -signal.SIGKILL
        except subprocess.TimeoutExpired:
            pytest.fail("the worker lives on")
        finally:
            with contextlib.suppress(ProcessLookupError):  # all have ended
                os.killpg(parent.pid, signal.SIGKILL)
