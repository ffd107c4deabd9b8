"""What is said of GPUs that PyTorch cannot use."""

from types import SimpleNamespace

import pytest

from mutualnet_det import gpu

TORCH_CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((7, 0), TORCH_CU130, False),  # a V100
        ((7, 5), TORCH_CU130, True),
        ((8, 9), TORCH_CU130, True),  # by the code for 8.6
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_86"], False),
        ((9, 0), ["compute_80"], True),
        ((12, 1), TORCH_CU130, True),
        ((13, 0), TORCH_CU130, True),
        ((9, 0), ["sm_90a"], True),
        ((10, 3), ["sm_100a"], False),
        ((10, 3), ["sm_100f"], True),
        ((9, 0), ["gfx942"], True),  # AMD's
    ],
)
def test_runs_on(capability, architectures, runs):
    assert gpu.runs_on(capability, architectures) is runs


def test_a_v100_is_named_with_what_to_do(monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "get_device_capability", lambda index: (7, 0))
    monkeypatch.setattr(gpu.torch.cuda, "get_arch_list", lambda: TORCH_CU130)
    monkeypatch.setattr(gpu.torch.cuda, "get_device_name", lambda index: "Tesla V100")
    why = gpu.why_unsupported(0)
    assert why.startswith("Tesla V100 has compute capability 7.0, for which PyTorch")
    assert "(sm_75, " in why and "an older CUDA" in why
    monkeypatch.setattr(gpu.torch.cuda, "get_device_capability", lambda index: (9, 0))
    assert gpu.why_unsupported(0) == ""


@pytest.fixture
def machine(monkeypatch):
    """Returns a function that tells what nvidia-smi says, and how torch is built and starts."""

    def set_up(smi, cuda="13.0", error=None):
        def run(command, **kwargs):
            if smi is None:
                raise FileNotFoundError(command[0])
            return smi

        def init():
            if error is not None:
                raise error

        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(gpu.subprocess, "run", run)
        monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(gpu.torch.cuda, "init", init)
        monkeypatch.setattr(gpu.torch.version, "cuda", cuda)
        gpu.why_no_gpu.cache_clear()

    yield set_up
    gpu.why_no_gpu.cache_clear()


def says(text, returncode=0):
    return SimpleNamespace(stdout=text, stderr="", returncode=returncode)


TWO = says("NVIDIA A100, 570.86\nNVIDIA A100, 570.86\n")
TOO_OLD = RuntimeError("The NVIDIA driver on your system is too old (found version 12080).\nMore")


def test_no_gpu_is_no_fault(machine):
    for smi in (None, says("")):
        machine(smi)
        assert gpu.why_no_gpu() == ""


@pytest.mark.parametrize(
    ("smi", "cuda", "error", "texts"),
    [
        (TWO, None, None, ["NVIDIA A100, driver 570.86; NVIDIA A100", "for the CPU alone"]),
        (TWO, "13.0", TOO_OLD, ["CUDA 13.0", "(found version 12080).)", "Update the driver"]),
        (TWO, "13.0", None, ["finds no GPU (without a reason)"]),
        (says("NVIDIA-SMI has failed\nX", 9), "13.0", None, ["nvidia-smi fails: NVIDIA-SMI has"]),
    ],
)
def test_why_no_gpu(machine, smi, cuda, error, texts):
    machine(smi, cuda, error)
    why = gpu.why_no_gpu()
    assert all(text in why for text in texts) and "\n" not in why


@pytest.mark.parametrize("hidden", ["", "-1", " "])
def test_who_hides_gpus_wants_none(machine, monkeypatch, hidden):
    machine(TWO, "13.0", TOO_OLD)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert gpu.why_no_gpu() == ""
