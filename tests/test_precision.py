"""What training computes in."""

import pytest
import torch

from mutualnet_det import load_config, precision
from mutualnet_det.modeling.build import build_network


@pytest.fixture
def gpu(monkeypatch):
    """Returns a function that pretends a GPU, which has bfloat16 or not."""

    def pretend(has_bfloat16):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr("mutualnet_det.config.checks.why_unsupported", lambda index: "")
        # An older GPU emulates it.
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16
        )

    return pretend


@pytest.mark.parametrize("name", ["mutual_maskrcnn_mbv2", "pretrain_mbv2", "mutual_retinanet_mbv2"])
@pytest.mark.parametrize(
    ("has_bfloat16", "expected"), [(True, torch.bfloat16), (False, torch.float32)]
)
def test_configs_train_in_bfloat16_where_a_gpu_has_it(gpu, name, has_bfloat16, expected):
    on_cpu = load_config(name, ["MODEL.DEVICE", "cpu"])
    assert on_cpu.SOLVER.AMP.ENABLED and precision.training_dtype(on_cpu) == torch.float32
    gpu(has_bfloat16)
    assert precision.training_dtype(load_config(name)) == expected


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_is_asked_for_by_name(gpu, dtype):
    gpu(has_bfloat16=False)
    named = ["MUTUALNET.AMP_DTYPE", dtype]
    cfg = load_config("quickstart_shapes", [*named, "SOLVER.AMP.ENABLED", "True"])
    assert precision.training_dtype(cfg) == getattr(torch, dtype)
    assert precision.training_dtype(load_config("quickstart_shapes", named)) == torch.float32


def test_matrix_products_of_a_gpu(gpu, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", chosen.append)
    build_network(load_config("quickstart_shapes", ["MODEL.DEVICE", "cpu"]))
    assert chosen == []  # a CPU's are left alone
    gpu(has_bfloat16=True)
    options = ["MUTUALNET.MATMUL_PRECISION", "high"]
    precision.set_matmul_precision(load_config("quickstart_shapes", options))
    assert chosen == ["high"]
