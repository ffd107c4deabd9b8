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
