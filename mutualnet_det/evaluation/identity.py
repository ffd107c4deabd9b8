"""Telling whether files are still those that an evaluation was begun with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from ..data.faults import DatasetError


def files_digest(paths: Iterable[str], *, contents: bool) -> str:
    """
    SHA-256 over the files' names, and their contents or their sizes and times of modification.

    Args:
        contents: read the files, for those that are small and will be read again and again.

    Raises:
        DatasetError: naming a file that cannot be read.
    """
    digest = hashlib.sha256()
    for path in dict.fromkeys(paths):
        try:
            if contents:
                with Path(path).open("rb") as file:
                    state = hashlib.sha256(file.read()).hexdigest()
            else:
                status = Path(path).stat()
                state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError as error:
            raise DatasetError(f"Cannot evaluate on {path}: {error}") from error
        digest.update(f"{path}: {state}\n".encode())
    return digest.hexdigest()
