"""The device a latency was measured on."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from pathlib import Path

import torch
from torch import nn


def device_of(model: nn.Module) -> torch.device:
    """The device that a model's weights are on."""
    return next(model.parameters()).device


def device_name(device: torch.device) -> str:
    """Name to write beside a latency, such as "NVIDIA H200" or "Intel Xeon 6975P, 2 threads"."""
    name = hardware_name(device)
    if device.type != "cpu":
        return name
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def hardware_name(device: torch.device) -> str:
    """The device, whatever the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    # Other accelerators have no name, but must not pass for the CPU beside them.
    return _cpu_name() if device.type == "cpu" else f"{_cpu_name()}, {device.type}"


def _cpu_name() -> str:
    """Name of the processor; of ARM, where that has no name, the board or the core."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    if "model name" in facts:
        return facts["model name"]
    with contextlib.suppress(OSError):
        return Path("/proc/device-tree/model").read_text().rstrip("\0\n")
    with contextlib.suppress(OSError, subprocess.CalledProcessError):  # macOS
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).strip()
    # Not the host's name: a container's is new each time, and tables are for others to read.
    numbers = [key for key in ("CPU implementer", "CPU part") if key in facts]
    name = platform.processor() or platform.machine()
    return " ".join([name, *(f"{key} {facts[key]}" for key in numbers)])


def wait_for(device: torch.device) -> None:
    """Wait until ``device`` has done what it was given, so that a clock can be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
