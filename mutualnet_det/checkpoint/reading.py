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
            f"{path} is a pickle, which can run code when it is read. Convert it to a .pth file "
            "with torch.save first."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    # Bytes that are no checkpoint fail in the unpickler in any way there is.
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{path} holds more than tensors and plain values, and reading those could run "
                f"code. Save it again with its state dict alone. ({_first_line(error)})"
            ) from error
        raise CheckpointError(
            f"{path} ({os.path.getsize(path)} bytes) is truncated or not a checkpoint. Take "
            f"another one: those of earlier iterations lie beside it. ({_first_line(error)})"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a state dict.")
    checkpoint = content if "model" in content else {"model": content}
    _check_state_dict(checkpoint["model"], path)
    return checkpoint


def _check_state_dict(state: object, path: str) -> None:
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path} holds a {type(state).__name__} as 'model'; expected a state dict."
        )
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"{path} is no state dict, nor has it one under 'model': {key!r} is a "
                f"{type(value).__name__}; expected a tensor."
            )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
