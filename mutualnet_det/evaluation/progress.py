"""Progress of an interrupted evaluation, kept on disk for the same evaluation to continue."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..distributed import POLL_PERIOD
from ..errors import UserError
from ..locks import FileLock, LockedError
from ..slimmable import OperatingPoint
from .files import replacing

logger = logging.getLogger(__name__)

# Processes of an evaluation that has lost one end, but may be slow to notice.
LOCK_TIMEOUT = 20.0  # s
# How long a network file system may take to show a machine what another one has written.
SHOWN_WITHIN = 120.0  # s


class ProgressError(UserError, ValueError):
    """Results on disk cannot be continued; the message says why, and how to start afresh."""


def check_same(kept: Mapping[str, Any], expected: Mapping[str, Any], where: Path) -> None:
    """ProgressError, with the first differences, unless both identities are equal."""
    keys = [key for key in {**expected, **kept} if kept.get(key) != expected.get(key)]
    if keys:
        shown = [
            f"{key}: there {_shortened(kept.get(key))}, here {_shortened(expected.get(key))}"
            for key in keys[:4]
        ]
        more = [f"and {len(keys) - 4} more"] if len(keys) > 4 else []
        raise ProgressError(
            f"{where} belongs to another evaluation and cannot be continued. It differs in "
            + "; ".join(shown + more)
            + ". To start afresh, delete that folder, run without --resume (what is there is "
            "overwritten) or choose another output folder."
        )


def _shortened(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Part:
    """
    Results of one process: one line per image in a file per operating point.

    Lines are appended to all files first and counted second, by replacing ``index.json``. So a kill
    loses at most the lines of one :meth:`commit`.

    Args:
        folder: made if it is not there.

    Attributes:
        images: the number of each image that is done, as the lines stand in the files.
    """

    def __init__(self, folder: Path, points: Sequence[OperatingPoint]) -> None:
        self._folder = folder
        self._index = folder / "index.json"
        self.images: list[int] = []
        self._bytes = {str(point): 0 for point in points}
        if self._index.exists():
            index = json.loads(self._index.read_text())
            self.images, self._bytes = index["images"], index["bytes"]

    def lines(self, point: OperatingPoint) -> Path:
        """The file of a point."""
        return self._folder / f"{point}.jsonl"

    def cut(self) -> None:
        """
        Remove the lines that were written and not counted.

        Raises:
            ProgressError: if there are fewer than were counted.
        """
        for name, counted in self._bytes.items():
            path = self._folder / f"{name}.jsonl"
            size = path.stat().st_size if path.exists() else 0
            if size < counted:
                raise ProgressError(
                    f"{path} has {size} bytes where {counted} were written: it was changed from "
                    "outside. Run without --resume to start afresh."
                )
            if path.exists():
                os.truncate(path, counted)

    def commit(
        self, images: Sequence[int], results: Iterable[tuple[OperatingPoint, Sequence[dict]]]
    ) -> None:
        """
        Add what was found on some images.

        Args:
            images: their numbers.
            results: every point once, with one record per image, as JSON. They are written as they
                come: those of one point at a time are held in memory.
        """
        self._folder.mkdir(exist_ok=True)
        sizes = dict(self._bytes)
        for point, records in results:
            lines = "".join(json.dumps(record) + "\n" for record in records).encode()
            with self.lines(point).open("ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            sizes[str(point)] += len(lines)
        done = [*self.images, *images]
        with replacing(self._index) as file:
            json.dump({"images": done, "bytes": sizes}, file)
        self.images, self._bytes = done, sizes


class Progress:
    """
    The folder of an evaluation in work.

    Each process has a part of its own, which says what images it holds; so an evaluation can be
    continued by any number of processes. One of them begins it.

    Args:
        folder: where the evaluation keeps what it has done.
        points: the operating points under evaluation.

    Attributes:
        threads: of each process on the CPU, as the evaluation was begun: results and latencies are
            to be those of one number of threads.
    """

    def __init__(self, folder: Path, points: Sequence[OperatingPoint]) -> None:
        self.folder = folder
        self.threads = 0
        self._points = tuple(points)
        self._lock: FileLock | None = None

    def begin(self, identity: Mapping[str, Any], threads: int, resume: bool) -> None:
        """
        Open the folder, for as long as this process lives or until :meth:`close`.

        Args:
            identity: what makes results comparable (weights, data set, points, settings), as it
                reads back from JSON.
            threads: for an evaluation that begins.
            resume: continue what is in the folder, if anything; otherwise it is deleted.

        Raises:
            ProgressError: if another evaluation is at work in the folder; on ``resume``, if it
                holds another one.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked()
        index = self.folder / "evaluation.json"
        if resume and index.exists():
            content = json.loads(index.read_text())
            check_same(content["identity"], identity, self.folder)
            self.threads = content["threads"]
            for part in self._parts():
                part.cut()
            return
        if index.exists():
            logger.warning("Starting afresh: what was begun in %s is deleted.", self.folder)
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
        with replacing(index) as file:
            json.dump({"identity": dict(identity), "threads": threads}, file)
        self.threads = threads

    def _locked(self) -> FileLock:
        """The folder's lock."""
        try:
            return FileLock(self.folder / "lock", timeout=LOCK_TIMEOUT)
        except LockedError as error:
            raise ProgressError(
                f"Another evaluation is at work in {self.folder}. Wait until it has finished, stop "
                "it, or choose another output folder."
            ) from error

    def close(self) -> None:
        """Let another evaluation begin."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def part(self, number: int) -> Part:
        """The part that one process, numbered from 0, adds to."""
        return Part(self.folder / f"part-{number}", self._points)

    def _parts(self) -> list[Part]:
        return [Part(folder, self._points) for folder in self.folder.glob("part-*")]

    def wait_until(self, is_there: Callable[[], bool]) -> None:
        """
        Wait for what processes of other machines have written.

        Raises:
            ProgressError: if it does not come in time, so that they write somewhere else.
        """
        end = time.monotonic() + SHOWN_WITHIN
        while not is_there():
            if time.monotonic() > end:
                raise ProgressError(
                    f"{self.folder} lacks what other processes have found. It must be one folder "
                    "that all machines share."
                )
            time.sleep(POLL_PERIOD)

    def done(self) -> set[int]:
        """The numbers of the images that are through at all points."""
        return {image for part in self._parts() for image in part.images}

    def records(self, point: OperatingPoint) -> Iterator[dict]:
        """Read the records of ``point``, by the number of the image: one at a time is in memory."""
        with contextlib.ExitStack() as files:
            places = {}
            for part in self._parts():
                if not part.images:
                    continue
                file = files.enter_context(part.lines(point).open("rb"))
                for image in part.images:
                    places[image] = file, file.tell()
                    file.readline()
            for _, (file, offset) in sorted(places.items()):
                file.seek(offset)
                yield json.loads(file.readline())

    def result(self, point: OperatingPoint) -> dict | None:
        """The result that :meth:`keep_result` kept, or None."""
        path = self.folder / f"{point}.result.json"
        return json.loads(path.read_text()) if path.exists() else None

    def keep_result(self, point: OperatingPoint, result: dict) -> None:
        """Keep what was computed from all records of ``point``, as JSON."""
        with replacing(self.folder / f"{point}.result.json") as file:
            json.dump(result, file)

    def delete(self) -> None:
        """Delete the progress, once everything has been written elsewhere."""
        # In one step: half of it would be taken for an evaluation that is to be continued.
        done = self.folder.with_name(f".{self.folder.name}.done")
        shutil.rmtree(done, ignore_errors=True)
        self.folder.rename(done)
        shutil.rmtree(done)
