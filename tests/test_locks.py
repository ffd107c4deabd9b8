"""The lock on a file: one holder, handed on to other processes, ended by their end."""

import importlib.util
import math
import os
import subprocess
import sys
import types

import pytest

from mutualnet_det import locks
from mutualnet_det.locks import FileLock, LockedError

HOLD = """
import sys, time
from pathlib import Path
from mutualnet_det.locks import FileLock
lock = FileLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


def is_free(path):
    try:
        FileLock(path).close()
    except LockedError:
        return False
    return True


def test_one_holder_at_a_time(path):
    with FileLock(path), pytest.raises(LockedError, match=f"Another process holds {path}"):
        FileLock(path)
    assert is_free(path)


def test_waits_for_the_holder_and_says_so_once(path, monkeypatch):
    holder, waits, naps = FileLock(path), [], []

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            holder.close()

    monkeypatch.setattr(locks.time, "sleep", sleep)
    with FileLock(path, timeout=math.inf, on_wait=lambda: waits.append(1)):
        assert len(naps) == 3 and len(waits) == 1


def test_no_descriptor_stays_open_where_the_lock_is_held(path):
    with FileLock(path):
        before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
        for _ in range(3):
            assert not is_free(path)
        after = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    assert after == before


def test_a_killed_holder_gives_it_back(path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        assert not is_free(path)
    finally:
        process.kill()
        process.communicate()
    assert is_free(path)


def test_a_process_that_was_handed_the_descriptor_holds_it_too(path):
    lock = FileLock(path)
    process = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.fileno()]
    )
    lock.close()
    assert not is_free(path)
    process.communicate(b"\n")
    assert is_free(path)


def test_given_back_it_has_no_descriptor(path):
    lock = FileLock(path)
    lock.close()
    lock.close()
    with pytest.raises(ValueError, match="given back"):
        lock.fileno()


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        FileLock(tmp_path / "missing" / "lock")


def test_windows_locks_with_its_own_module(path, monkeypatch):
    held = []

    def locking(descriptor, mode, length):
        assert (mode, length) == ("without waiting", 1)
        if held:
            raise PermissionError(13, "Permission denied")
        held.append(descriptor)

    windows = types.SimpleNamespace(locking=locking, LK_NBLCK="without waiting")
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as a Python that has none
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    spec = importlib.util.spec_from_file_location("locks_of_windows", locks.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lock = module.FileLock(path)
    assert held == [lock.fileno()]
    with pytest.raises(module.LockedError):
        module.FileLock(path)
    lock.close()
