"""
A pretended accelerator: a device of torch, "pretend", as strict as a GPU, on the CPU.

Its memory is the CPU's, but what mixes its tensors with the CPU's is an error, what is read before
it is written is NaN, and a listener hears of every copy and wait with the line that causes it.
``pretended.cpp`` is the backend (torch's PrivateUse1); a kernel's speed, CUDA's own branches and
asynchrony are not pretended.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import torch
import torchvision  # noqa: F401  (registers its operations)
from torch.utils import backend_registration

SOURCE = Path(__file__).with_name("pretended.cpp")
TORCH = Path(torch.__file__).parent
NAME = "pretended"


def built() -> Path:
    """The backend's library, built once for each version of torch, in about a minute."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "mutualnet_det")
    key = f"{torch.__version__} {sys.version}".encode() + SOURCE.read_bytes()
    library = cache / hashlib.sha256(key).hexdigest()[:16] / f"{NAME}.so"
    if not library.is_file():
        library.parent.mkdir(parents=True, exist_ok=True)
        draft = library.with_suffix(f".{os.getpid()}")
        includes = (TORCH / "include", TORCH / "include/torch/csrc/api/include")
        subprocess.run(
            [
                *("g++", "-O0", "-std=c++20", "-shared", "-fPIC", "-w"),
                f"-DTORCH_EXTENSION_NAME={NAME}",
                *(f"-I{folder}" for folder in (*includes, sysconfig.get_paths()["include"])),
                *(str(SOURCE), "-o", str(draft), f"-L{TORCH / 'lib'}"),
                *("-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"),
                f"-Wl,-rpath,{TORCH / 'lib'}",
            ],
            check=True,
        )
        draft.replace(library)
    return library


class _Module:
    """``torch.pretend``: what torch asks of a device's module."""

    is_available = is_initialized = staticmethod(lambda: True)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed = manual_seed_all = set_device = staticmethod(lambda *_: None)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    get_rng_state = staticmethod(lambda device=None: torch.get_rng_state())
    set_rng_state = staticmethod(lambda state, device=None: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.float16, torch.bfloat16])


def _load(library: Path):
    spec = importlib.util.spec_from_file_location(NAME, library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


backend_registration._setup_privateuseone_for_python_backend("pretend", backend_module=_Module())
_native = _load(built())


class Listener:
    """
    Counts what happens between host and device, by (what, place in the project, ours).

    What is "host to device" or "device to host", copies that are waited for; "asynchronous copy";
    "read", a number that Python asks for; or "waits", an operation whose result has a size that the
    host must know. The place is the innermost line of the project, or of nothing for the thread of
    backward; ``ours`` tells whether the project itself causes it, not a library that it calls.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, bool]] = Counter()

    def __call__(self, what: str, operation: str, num_bytes: int) -> None:
        if what == "kernel":
            return
        ours, frame = True, sys._getframe()
        while frame is not None:
            file = frame.f_code.co_filename
            if "/mutualnet_det/" in file:
                place = f"{file.rpartition('/mutualnet_det/')[2]} {frame.f_code.co_name}"
                self.counts[what, place, ours] += 1
                return
            ours = ours and "/detectron2/" not in file
            frame = frame.f_back
        self.counts[what, "backward", False] += 1

    def __enter__(self) -> Listener:
        _native.listen(self)
        return self

    def __exit__(self, *error: object) -> None:
        _native.listen(None)


# What torch and torchvision have kernels for on CUDA and no other backend ------------------------


def _group_norm(x, weight, bias, *rest):
    given = (None if tensor is None else tensor.cpu() for tensor in (weight, bias))
    results = torch.ops.aten.native_group_norm(x.cpu().contiguous(), *given, *rest)
    return tuple(result.to(x.device) for result in results)


def _group_norm_backward(gradient, x, mean, deviation, weight, *rest):
    given = (
        tensor if tensor is None else tensor.cpu().contiguous()
        for tensor in (gradient, x, mean, deviation, weight)
    )
    results = torch.ops.aten.native_group_norm_backward(*given, *rest)
    return tuple(None if result is None else result.to(x.device) for result in results)


_aten = torch.library.Library("aten", "IMPL")
_aten.impl("native_group_norm", _group_norm, "PrivateUse1")
_aten.impl("native_group_norm_backward", _group_norm_backward, "PrivateUse1")

# Under autocast torchvision's operations compute in float32, as its kernels for CUDA do.
_autocast = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)


def _nms(boxes, scores, threshold):
    with torch._C._ExcludeDispatchKeyGuard(_autocast):
        return torch.ops.torchvision.nms(boxes.float(), scores.float(), threshold)


def _roi_align(features, rois, *rest):
    with torch._C._ExcludeDispatchKeyGuard(_autocast):
        pooled = torch.ops.torchvision.roi_align(features.float(), rois.float(), *rest)
    return pooled.to(features.dtype)


_vision = torch.library.Library("torchvision", "IMPL")
_vision.impl("nms", _nms, "AutocastPrivateUse1")
_vision.impl("roi_align", _roi_align, "AutocastPrivateUse1")
