"""Whether PyTorch can use the GPUs of this machine, and if not, why."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Iterable

import torch

OLDER = "https://pytorch.org/get-started/previous-versions names PyTorchs built for an older CUDA."


@functools.cache
def why_no_gpu() -> str:
    """
    Why PyTorch uses none of the GPUs that are installed.

    Empty where it does, where there are none, and where ``CUDA_VISIBLE_DEVICES`` hides them.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return ""
    if torch.cuda.is_available():
        return ""
    # The driver's own tool sees them whatever PyTorch makes of them.
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return ""
    if found.returncode:
        return f"nvidia-smi fails: {_first_line(found.stdout or found.stderr)}"
    gpus = "; ".join(line.replace(", ", ", driver ") for line in found.stdout.splitlines())
    if not gpus:
        return ""
    if torch.version.cuda is None:
        return f"{gpus}: PyTorch {torch.__version__} is built for the CPU alone. Install another."
    built = f"PyTorch {torch.__version__} is built for CUDA {torch.version.cuda}"
    return (
        f"{gpus}: {built} and finds no GPU ({_why_not_started()}). Update the driver, or: {OLDER}"
    )


def _why_not_started() -> str:
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        return _first_line(str(error))
    return "without a reason"


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "it says nothing")


def why_unsupported(index: int) -> str:
    """Why a GPU that PyTorch sees cannot run its code; empty where it can."""
    capability = torch.cuda.get_device_capability(index)
    architectures = torch.cuda.get_arch_list()
    if runs_on(capability, architectures):
        return ""
    name, version = torch.cuda.get_device_name(index), ".".join(map(str, capability))
    return (
        f"{name} has compute capability {version}, for which PyTorch {torch.__version__} is not "
        f"built ({', '.join(architectures)}). {OLDER}"
    )


def runs_on(capability: tuple[int, int], architectures: Iterable[str]) -> bool:
    """
    Whether code for one of ``architectures`` runs on a GPU of a compute capability.

    Binary code ("sm_86") runs on the same major version, from its minor version on; what is for one
    architecture ("sm_90a") on that version alone; PTX ("compute_90") on every later version too
    (CUDA C++ Programming Guide, "Binary Compatibility" and "PTX Compatibility").
    """
    for architecture in architectures:
        parts = re.fullmatch(r"(sm|compute)_(\d+)(a?)f?", architecture)
        if parts is None:  # AMD's have no such order
            return True
        kind, number, specific = parts.groups()
        built = divmod(int(number), 10)
        same_major = capability[0] == built[0]
        runs = capability >= built and (kind == "compute" or same_major)
        if capability == built if specific else runs:
            return True
    return False
