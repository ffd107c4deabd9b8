"""Reading a checkpoint file without running code from it."""

from __future__ import annotations

import os
import pickle
import zipfile
from typing import Any

import torch

from ..errors import UserError


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be used; the message names the file and what to do."""


def read_checkpoint(path: str) -> dict[str, Any]:
    """
    The content of a ``.pth`` file, on the CPU, as ``{"model": state dict, ...}``.

    A file that is a bare state dict is wrapped. Only tensors and plain Python values are read,
    whatever the version of torch.

    Raises:
        CheckpointError: for a file that is missing, truncated, not a checkpoint, or that could run
            code when unpickled.
    """
    if not os.path.isfile(path):
        raise CheckpointError(f"There is no checkpoint {path}.")
    if path.endswith(".pkl"):
        raise CheckpointError(
            f"{path} is a pickle, which can run code when it is read. Convert it to a .pth file with "
            "torch.save first."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{path} holds more than tensors and plain values, and reading those could run code. "
                f"Save it again with its state dict alone. ({_first_line(error)})"
            ) from error
        raise CheckpointError(f"{path} is not a checkpoint. ({_first_line(error)})") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        size = os.path.getsize(path)
        raise CheckpointError(
            f"{path} ({size} bytes) is truncated or not a checkpoint. Take another one: those of "
            f"earlier iterations lie beside it. ({_first_line(error)})"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a state dict.")
    return content if "model" in content else {"model": content}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
