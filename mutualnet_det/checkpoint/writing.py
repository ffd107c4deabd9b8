"""Writing a checkpoint whole or not at all."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch

from .reading import CheckpointError


def write_checkpoint(path: str, content: dict[str, Any]) -> None:
    """``torch.save`` beside the place, then moved there: a failure leaves what was there before."""
    try:
        torch.save(content, path + ".tmp")
        os.replace(path + ".tmp", path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(path + ".tmp")
        raise


def check_output(path: str, source: str) -> None:
    """CheckpointError, before any work, if ``path`` cannot be written or is ``source`` itself."""
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise CheckpointError(
            f"{path} cannot be written: expected the name of a file in an existing folder that "
            "may be written to."
        )
    if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
        raise CheckpointError(f"{path} is the source itself: give the result another name.")
