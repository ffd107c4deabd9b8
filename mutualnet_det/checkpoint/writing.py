"""Writing a checkpoint whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import IO, Any

import torch

from ..files import replacing
from .reading import CheckpointError

MIB = 2**20


class NotWrittenError(CheckpointError):
    """A checkpoint could not be written, as on a full disk; what was there before still is."""


class _Summed:
    """A file that adds up the SHA-256 of what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.flush = file.flush
        self.sum = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sum.update(data)
        return self._file.write(data)


def write_checkpoint(path: str, content: dict[str, Any]) -> str:
    """
    ``torch.save`` beside the place, then moved there: a failure leaves what was there before.

    Returns:
        the SHA-256 of the file, in hexadecimal digits.

    Raises:
        NotWrittenError: naming the file, the cause, and the space that it needs and there is.
    """
    try:
        with replacing(Path(path), "wb") as file:
            # Given a path, torch.save takes no notice when the very end does not fit on the disk.
            summed = _Summed(file)
            torch.save(content, summed)
        return summed.sum.hexdigest()
    except (OSError, RuntimeError) as error:
        # torch reports that its count of bytes is off, and hides the cause of it.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise NotWrittenError(_not_written(path, content, cause)) from error


def _not_written(path: str, content: dict[str, Any], cause: OSError) -> str:
    folder = Path(path).parent
    try:
        free = f"{shutil.disk_usage(folder).free / MIB:.1f} MiB are free"
    except OSError as error:
        free = f"the free space is unknown ({error.strerror})"
    return (
        f"{path} could not be written: {cause.strerror or cause}. It needs about "
        f"{_num_bytes(content) / MIB:.1f} MiB; in {folder} {free}. Nothing that was there is lost."
    )


def _num_bytes(content: object) -> int:
    """The bytes of all tensors in it, however deep."""
    if isinstance(content, torch.Tensor):
        return content.nbytes
    if isinstance(content, dict):
        content = list(content.values())
    return sum(map(_num_bytes, content)) if isinstance(content, list | tuple) else 0


def check_output(path: str, source: str) -> None:
    """CheckpointError, before any work, if ``path`` cannot be written or is ``source`` itself."""
    folder = Path(path).parent
    if Path(path).is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise CheckpointError(
            f"{path} cannot be written: expected the name of a file in an existing folder that "
            "may be written to."
        )
    if Path(path).exists() and Path(source).exists() and Path(path).samefile(source):
        raise CheckpointError(f"{path} is the source itself: give the result another name.")
