"""Reading a checkpoint file, of whatever kind, without running code from it."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from ..safe_pickle import UnsafePickleError, load_pickle

# Where the state dict stands in a file that holds more than one.
STATE_DICT_KEYS = ("model", "state_dict", "model_state_dict")
# What a file of torch.save without zip, as before torch 1.6, begins with: its magic number.
_LEGACY_TORCH = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be used; the message names the file and what to do."""


def read_checkpoint(path: str) -> dict[str, Any]:
    """
    The content of a checkpoint file, on the CPU, as ``{"model": state dict of tensors, ...}``.

    Which kind it is, is seen from its bytes: a file of ``torch.save``, a safetensors file, or a
    pickle of NumPy arrays as in Detectron2's model zoo. A file that is a bare state dict is
    wrapped; one that has it under another of ``STATE_DICT_KEYS`` gives it as "model". Only
    tensors, arrays and plain Python values are read, whatever the version of torch.

    Raises:
        CheckpointError: for a file that is missing, truncated, not a checkpoint, or that could run
            code when unpickled.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"There is no checkpoint {path}.")
    content = _read(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a state dict.")
    checkpoint = dict(content)
    places = [key for key in STATE_DICT_KEYS if key in checkpoint]
    if not places:
        checkpoint = {"model": checkpoint}
    elif "model" not in places:
        checkpoint["model"] = checkpoint.pop(places[0])
    checkpoint["model"] = _state_dict(checkpoint["model"], path)
    return checkpoint


def _read(path: str) -> Any:
    with Path(path).open("rb") as file:
        start = file.read(len(_LEGACY_TORCH))
    if _is_safetensors(path):
        return _read_safetensors(path)
    if start.startswith(b"\x80") and not _LEGACY_TORCH.startswith(start):
        try:
            # What Python 2 wrote, as the Caffe2 models are, holds arrays as texts.
            return load_pickle(path, encoding="latin1")
        except UnsafePickleError as error:
            raise CheckpointError(str(error)) from error
    return _read_torch(path)


def _read_torch(path: str) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    # Bytes that are no checkpoint fail in the unpickler in any way there is.
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{path} holds more than tensors and plain values, and reading those could run "
                f"code. Save it again with its state dict alone. ({_first_line(error)})"
            ) from error
        raise _unreadable(path, error) from error


def _is_safetensors(path: str) -> bool:
    """Tell whether a file begins with the length of a header and a header in JSON."""
    with Path(path).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return 2 <= length <= Path(path).stat().st_size - 8 and file.read(2) == b'{"'


def _read_safetensors(path: str) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a safetensors file, and reading it needs a package that is not installed: "
            "pip install safetensors."
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, json.JSONDecodeError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} ({Path(path).stat().st_size} bytes) is truncated or not a checkpoint. Take "
        f"another one: those of earlier iterations lie beside it. ({_first_line(error)})"
    )


def _state_dict(state: object, path: str) -> dict[str, torch.Tensor]:
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path} holds a {type(state).__name__} as 'model'; expected a state dict."
        )
    tensors = {}
    for key, value in state.items():
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fiub":
            # A copy: torch takes neither read-only arrays nor foreign byte orders.
            value = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
        if not isinstance(key, str):
            raise CheckpointError(
                f"{path} is no state dict: a key is {key!r}; expected the name of an entry."
            )
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"{path} is no state dict, nor has it one under 'model': {key!r} is a "
                f"{type(value).__name__}; expected a tensor."
            )
        tensors[key] = value
    return tensors


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
