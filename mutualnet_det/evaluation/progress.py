"""What an interrupted evaluation had done, kept on disk for the same evaluation to continue."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..slimmable import OperatingPoint
from .files import replacing


class ProgressError(UserError, ValueError):
    """Results on disk cannot be continued; the message says why, and how to start afresh."""


def check_same(found: Mapping[str, Any], expected: Mapping[str, Any], where: Path) -> None:
    """ProgressError, with the first differences, unless both identities are equal."""
    keys = [key for key in {**expected, **found} if found.get(key) != expected.get(key)]
    if keys:
        shown = [
            f"{key}: there {_shortened(found.get(key))}, here {_shortened(expected.get(key))}"
            for key in keys[:4]
        ]
        more = [f"and {len(keys) - 4} more"] if len(keys) > 4 else []
        raise ProgressError(
            f"{where} belongs to another evaluation and cannot be continued. It differs in "
            + "; ".join(shown + more)
            + ". To start afresh, run without --resume (what is there is overwritten) or choose "
            "another output folder."
        )


def _shortened(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Progress:
    """
    The folder of an evaluation in work: one line per image in a file per operating point.

    Lines are appended to all files first and counted second, by replacing ``progress.json``; on
    return, whatever goes beyond the counted bytes is cut off. So a kill loses at most the lines of
    one :meth:`commit`.

    Args:
        folder: where the evaluation keeps what it has done.
        identity: what makes results comparable (weights, data set, points, settings), as it reads
            back from JSON.
        points: the operating points under evaluation.
        resume: continue what is in ``folder``, if anything; otherwise it is deleted.

    Raises:
        ProgressError: on ``resume``, if ``folder`` holds another evaluation.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        points: Sequence[OperatingPoint],
        resume: bool,
    ) -> None:
        self.folder = folder
        self._identity = dict(identity)
        self._points = tuple(points)
        self.num_images = 0
        self._bytes = {str(point): 0 for point in points}
        self._index = folder / "progress.json"
        if resume and self._index.exists():
            self._continue()
        else:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._count(0)

    def _lines(self, point: OperatingPoint) -> Path:
        return self.folder / f"{point}.jsonl"

    def _continue(self) -> None:
        index = json.loads(self._index.read_text())
        check_same(index["identity"], self._identity, self.folder)
        self.num_images = index["images"]
        self._bytes = index["bytes"]
        for point in self._points:
            path, counted = self._lines(point), self._bytes[str(point)]
            found = path.stat().st_size if path.exists() else 0
            if found < counted:
                raise ProgressError(
                    f"{path} has {found} bytes where {counted} were written: it was changed from "
                    "outside. Run without --resume to start afresh."
                )
            if path.exists():
                os.truncate(path, counted)

    def commit(self, records: Mapping[OperatingPoint, Sequence[dict]]) -> None:
        """Add what was found on some images: for every point one record per image, as JSON."""
        sizes = dict(self._bytes)
        for point in self._points:
            lines = "".join(json.dumps(record) + "\n" for record in records[point]).encode()
            with open(self._lines(point), "ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            sizes[str(point)] += len(lines)
        self._bytes = sizes
        self._count(self.num_images + len(records[self._points[0]]))

    def _count(self, num_images: int) -> None:
        with replacing(self._index) as file:
            json.dump(
                {"identity": self._identity, "images": num_images, "bytes": self._bytes}, file
            )
        self.num_images = num_images

    def records(self, point: OperatingPoint) -> Iterator[dict]:
        """All records of ``point``, in the order of the images."""
        with open(self._lines(point), encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    def result(self, point: OperatingPoint) -> dict | None:
        """What :meth:`keep_result` kept, or None."""
        path = self.folder / f"{point}.result.json"
        return json.loads(path.read_text()) if path.exists() else None

    def keep_result(self, point: OperatingPoint, result: dict) -> None:
        """Keep what was computed from all records of ``point``, as JSON."""
        with replacing(self.folder / f"{point}.result.json") as file:
            json.dump(result, file)

    def delete(self) -> None:
        """To be called when everything has been written elsewhere."""
        shutil.rmtree(self.folder)
