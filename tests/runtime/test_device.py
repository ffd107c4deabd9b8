"""Names of devices: what tells one latency column from another."""

import pytest
import torch

from mutualnet_det.runtime import device as device_module
from mutualnet_det.runtime.device import device_name, wait_for

CPU, MPS = torch.device("cpu"), torch.device("mps")


@pytest.mark.parametrize(("threads", "told"), [(1, "1 thread"), (3, "3 threads")])
def test_a_cpu_is_named_with_its_threads(monkeypatch, threads, told):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(device_module, "_cpu_name", lambda: "Chip M9")
    assert device_name(CPU) == f"Chip M9, {told}"


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"/proc/cpuinfo": "processor : 0\nmodel name : Chip M9\n"}, "Chip M9"),
        # 64-bit ARM.
        (
            {"/proc/cpuinfo": "CPU part : 0xd0b\n", "/proc/device-tree/model": "Board 5\0"},
            "Board 5",
        ),
        (
            {"/proc/cpuinfo": "CPU implementer : 0x41\nCPU part : 0xd0c\nCPU part : 0xd40\n"},
            "some-arm CPU implementer 0x41 CPU part 0xd0c",
        ),
        ({}, "some-arm"),
    ],
)
def test_unlike_machines_have_unlike_names(monkeypatch, files, name):
    def read_text(path):
        if str(path) not in files:
            raise FileNotFoundError
        return files[str(path)]

    monkeypatch.setattr(device_module.Path, "read_text", read_text)
    monkeypatch.setenv("PATH", "")  # no sysctl
    monkeypatch.setattr(device_module.platform, "processor", lambda: "")
    monkeypatch.setattr(device_module.platform, "machine", lambda: "some-arm")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert device_name(CPU) == f"{name}, 1 thread"


def test_an_accelerator_does_not_pass_for_the_cpu_beside_it(monkeypatch):
    monkeypatch.setattr(device_module, "_cpu_name", lambda: "Chip M9")
    assert device_name(MPS) == "Chip M9, mps"


def test_waits_for_an_accelerator_before_a_clock_is_read(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append(str(device)))
    for device in (CPU, MPS, torch.device("cuda:1")):
        wait_for(device)
    assert waited == ["mps", "cuda:1"]
