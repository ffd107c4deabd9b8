"""Trainers on tiny data, and trainings in processes of their own, which can be killed."""

import json
import multiprocessing
import runpy
from pathlib import Path

import pytest
import torch
from detectron2.modeling.proposal_generator import proposal_utils

from mutualnet_det.data.coco import check_datasets
from mutualnet_det.engine import MutualTrainer, metrics, trainer

CONTEXT = multiprocessing.get_context("forkserver")
# Imported once; every process starts from there. Nothing is computed in it.
CONTEXT.set_forkserver_preload(["mutualnet_det.engine"])


@pytest.fixture
def build(training_cfg):
    """Builds a trainer on the tiny shapes with some keys changed, its weights always the same."""

    def make(*overrides):
        training_cfg.merge_from_list(list(overrides))
        check_datasets(training_cfg)
        torch.manual_seed(0)
        return MutualTrainer(training_cfg)

    return make


@pytest.fixture
def every_iteration(monkeypatch):
    """A record of every iteration."""
    monkeypatch.setattr(trainer, "WRITE_PERIOD", 1)
    monkeypatch.setattr(metrics, "WRITE_PERIOD", 1)


@pytest.fixture
def build_resumed(build, every_iteration):
    """The same, gone on from its last checkpoint if there is one, with every iteration's record."""

    def make(*overrides):
        mutual = build(*overrides)
        mutual.resume_or_load(True)
        return mutual

    return make


@pytest.fixture
def in_float64(monkeypatch):
    """A network built in float64 trains in it."""
    nms = proposal_utils.batched_nms  # of float32 alone
    monkeypatch.setattr(
        proposal_utils,
        "batched_nms",
        lambda boxes, scores, *rest: nms(boxes, scores.float(), *rest),
    )
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def start_script():
    """Start a script of this folder in a process, with its global ``JOB`` set."""

    def start(name, **job):
        script = str(Path(__file__).with_name(name))
        process = CONTEXT.Process(
            target=runpy.run_path, args=(script,), kwargs={"init_globals": {"JOB": job}}
        )
        process.start()
        return process

    return start


@pytest.fixture(scope="session")
def run_script(start_script):
    """Run a script of this folder in a process; returns its exit code, -9 if it was killed."""

    def run(name, **job):
        process = start_script(name, **job)
        process.join()
        return process.exitcode

    return run


@pytest.fixture(scope="session")
def read_metrics():
    """The records of a metrics file, without what depends on the clock."""

    def read(folder):
        lines = (Path(folder) / "metrics.json").read_text().splitlines()
        # Keys, or how they start. How much memory a process takes depends on what else it did.
        clocks = (
            *("time", "seconds/", "data_share", "images_per_second", "eta_seconds"),
            "peak_memory_mib",
        )
        return [
            {key: value for key, value in json.loads(line).items() if not key.startswith(clocks)}
            for line in lines
        ]

    return read
