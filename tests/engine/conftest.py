"""Trainings in processes of their own, which can be killed."""

import json
import multiprocessing
import runpy
from pathlib import Path

import pytest

CONTEXT = multiprocessing.get_context("forkserver")
# Imported once; every process starts from there. Nothing is computed in it.
CONTEXT.set_forkserver_preload(["mutualnet_det.engine"])


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
