"""What a reduction takes by the model, and what a step reduces."""

import os
import subprocess
import sys

import pytest
import torch

from mutualnet_det.lab.bench.scaling import (
    Cluster,
    Link,
    Messages,
    StepCost,
    predict,
    scaling_table,
)
from mutualnet_det.modeling.build import build_network

FAST, SLOW = Link(1.0, 8.0), Link(5.0, 2.0)


def test_nothing_is_reduced_alone():
    assert Cluster(1, 1, FAST, SLOW, overhead=3.0).all_reduce(1000) == 0


@pytest.mark.parametrize(
    "num_bytes, seconds",
    [
        (0, 6),  # a tree of 8: up and down 3 levels
        (8000, 14 + 1750),  # a ring: 7/8 of the bytes twice, in 14 parts
    ],
)
def test_one_machine(num_bytes, seconds):
    assert Cluster(1, 8, FAST, SLOW, overhead=0.0).all_reduce(num_bytes) == seconds


def test_machines_add_their_own_reduction():
    # 2 machines: 10 s and all the bytes once; within them, 2 GPUs: 2 s and all the bytes once.
    cluster = Cluster(2, 2, FAST, SLOW, overhead=0.5)
    assert cluster.all_reduce(800) == 0.5 + (2 + 100) + (10 + 400)


def test_a_step_is_its_computation_and_its_reductions():
    cluster = Cluster(1, 2, Link(1.0, 100.0), SLOW, overhead=0.0)
    cost = predict(10.0, Messages(1000, (100, 100)), cluster)
    assert cost == StepCost(2, step=10 + 12 + 6, gradients=12, statistics=6, num_statistics=2)
    assert "36%" in scaling_table([cost], base=10.0)


def test_what_a_step_reduces(training_cfg):
    torch.manual_seed(0)
    messages = Messages.of(training_cfg)
    model = build_network(training_cfg)
    assert messages.gradients == 4 * sum(p.numel() for p in model.parameters())
    norms = sum(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    assert len(messages.statistics) == 3 * 2 * norms  # passes, directions
    training_cfg.MUTUALNET.SYNC_STATISTICS = False
    assert Messages.of(training_cfg).statistics == ()


@pytest.mark.slow
def test_the_tool_measures_what_the_model_counts(training_cfg, request, tmp_path):
    (tmp_path / "config.yaml").write_text(training_cfg.dump())
    root = request.config.rootpath
    command = ["tools/benchmark_scaling.py", "--config-file", str(tmp_path / "config.yaml")]
    command += ["--processes", "2", "--steps", "1", "--step-ms", "100"]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    output = subprocess.run(
        [sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True
    ).stdout
    count = len(Messages.of(training_cfg).statistics)
    assert f"of statistics in {count} parts" in output
    rows = [line.split() for line in output.splitlines() if line[:11].strip().isdigit()]
    assert [(row[0], row[4]) for row in rows] == [(n, str(count)) for n in ("2", "8", "64")]
