"""A lock that processes hold together, and that ends with the last of them, however it ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, see _try_lock
    fcntl = None  # type: ignore[assignment]

POLL_PERIOD = 0.1  # s


class LockedError(Exception):
    """Another process holds the lock."""


class FileLock:
    """
    The lock on a file, held from the start until :meth:`close`.

    Other than the lock of a library (filelock, portalocker), it is handed on to a process that
    starts, by its descriptor, as one of ``subprocess.Popen``'s ``pass_fds``. Both hold it then, and
    one that outlives the other still does. On Windows only the process that took it holds it.

    Args:
        path: of the file, made if it is not there; it stays.
        timeout: s to wait while another process holds it.
        on_wait: called once, if there is somebody to wait for.

    Raises:
        LockedError: if another process holds it after that time.
        OSError: if the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        timeout: float = 0.0,
        on_wait: Callable[[], object] = lambda: None,
    ) -> None:
        self._descriptor: int | None = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            self._acquire(path, time.monotonic() + timeout, on_wait)
        except BaseException:
            self.close()
            raise

    def _acquire(self, path: Path, deadline: float, on_wait: Callable[[], object]) -> None:
        waits = False
        while not _try_lock(self.fileno()):
            if time.monotonic() > deadline:
                raise LockedError(f"Another process holds {path}.")
            if not waits:
                on_wait()
                waits = True
            time.sleep(POLL_PERIOD)

    def fileno(self) -> int:
        """The descriptor, for a process that is to hold the lock too."""
        if self._descriptor is None:
            raise ValueError("The lock was given back.")
        return self._descriptor

    def close(self) -> None:
        """Give the lock back, as far as this process holds it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _try_lock(descriptor: int) -> bool:
    """Take the lock unless another process holds it; returns whether it was taken."""
    try:
        if fcntl is None:
            import msvcrt  # Windows' own

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # Linux and macOS say the one, Windows the other
        return False
    return True
