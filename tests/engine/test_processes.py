"""Trainings of several processes, started as users start them: on the CPU."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from mutualnet_det.config import ConfigError
from mutualnet_det.distributed import check_same
from mutualnet_det.engine.processes import own_part, share_threads

TRAIN = "tools/train_net.py"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
LIMIT = 60  # s, in which all have ended after one has died


@pytest.fixture
def start(request, make_training_cfg, tmp_path):
    """
    ``start(*command)``: a training whose output goes to ``output.txt``; KEY VALUE pairs at the end.
    """
    root = request.config.rootpath
    cfg = make_training_cfg(tmp_path / "run")
    cfg.DATASETS.TEST = ()
    cfg.SOLVER.IMS_PER_BATCH = 4
    (tmp_path / "config.yaml").write_text(cfg.dump())
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    started = []

    def run(*command, options=()):
        with open(tmp_path / "output.txt", "w") as output:
            config = ("--config-file", str(tmp_path / "config.yaml"))
            process = subprocess.Popen(
                [*command, *config, *map(str, options)],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=root,
                env=environment,
            )
        started.append(process)
        return process

    yield run
    for process in started:
        for child in children(process.pid):
            os.kill(child, signal.SIGKILL)
        process.kill()


def children(pid):
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def rank_1(parent, output_dir):
    """The number of a process that has begun to train as rank 1."""
    log = output_dir / "log.txt.rank1"
    for _ in range(600):
        if log.exists() and "Starting training" in log.read_text():
            break
        time.sleep(0.1)
    trains = [
        child
        for child in sorted(children(parent.pid))
        # Beside it, Python's own that tracks resources.
        if "resource_tracker" not in Path(f"/proc/{child}/cmdline").read_text()
    ]
    assert len(trains) == 2
    return trains[1]


def wait_for(path, pattern):
    for _ in range(600):
        if list(path.glob(pattern)):
            return
        time.sleep(0.1)
    raise AssertionError(f"no {pattern}")


def test_a_dead_process_ends_a_launched_training(start, tmp_path):
    options = ("SOLVER.MAX_ITER", 10000)
    process = start(sys.executable, TRAIN, "--num-gpus", "2", "--dist-url", "auto", options=options)
    victim = rank_1(process, tmp_path / "run")
    time.sleep(1)  # in the middle of a step
    os.kill(victim, signal.SIGKILL)
    assert process.wait(LIMIT) == 1
    output = (tmp_path / "output.txt").read_text()
    assert f"error: rank 1 (pid {victim}) was ended by SIGKILL." in output
    # Detectron2 logs the config in colours, which a file has no use for.
    for text in (output, (tmp_path / "run" / "log.txt").read_text()):
        assert "Running with full config" in text and "\x1b" not in text


@pytest.mark.slow
def test_torchrun_says_who_died_and_restarts_from_the_last_checkpoint(start, tmp_path):
    options = ("SOLVER.MAX_ITER", 12, "SOLVER.CHECKPOINT_PERIOD", 4)
    process = start(*TORCHRUN, "--max-restarts", "1", TRAIN, "--resume", options=options)
    victim = rank_1(process, tmp_path / "run")
    wait_for(tmp_path / "run", "model_0000003.pth")
    os.kill(victim, signal.SIGKILL)
    assert process.wait(2 * LIMIT) == 0
    output = (tmp_path / "output.txt").read_text()
    assert f"(pid {victim}) has died" in output
    starts = [line.split()[-1] for line in output.splitlines() if "Starting training" in line]
    assert starts[0] == "0" and starts[1] in ("4", "8")
    assert (tmp_path / "run" / "model_final.pth").exists()


@pytest.mark.slow
@pytest.mark.parametrize("forwards", [True, False])
def test_torchrun_that_is_asked_to_stop_leaves_a_checkpoint(start, tmp_path, forwards):
    """By a signal that it hands on, or that ends it and leaves its processes alone."""
    options = ("SOLVER.MAX_ITER", 10000)
    handled = ("--signals-to-handle", "SIGTERM,SIGUSR1") if forwards else ()
    process = start(*TORCHRUN, *handled, TRAIN, options=options)
    rank_1(process, tmp_path / "run")
    time.sleep(1)  # in the middle of a step
    process.send_signal(signal.SIGUSR1)
    assert process.wait(LIMIT) != 0
    wait_for(tmp_path / "run", "stopped")
    number = "SIGUSR1" if forwards else "SIGTERM"
    (iteration,) = re.findall(
        rf"^{number} after iteration (\d+)$", (tmp_path / "run" / "stopped").read_text()
    )
    assert (tmp_path / "run" / f"model_{int(iteration):07d}.pth").exists()
    assert ("torchrun has ended" in (tmp_path / "output.txt").read_text()) != forwards
    assert "has died" not in (tmp_path / "output.txt").read_text()


@pytest.mark.slow
def test_torchrun_does_not_start_again_what_was_asked_to_stop(start, tmp_path):
    options = ("SOLVER.MAX_ITER", 10000)
    process = start(*TORCHRUN, "--max-restarts", "3", TRAIN, "--resume", options=options)
    os.kill(rank_1(process, tmp_path / "run"), signal.SIGUSR1)
    assert process.wait(LIMIT) == 0
    assert (tmp_path / "run" / "stopped").exists()
    assert (tmp_path / "output.txt").read_text().count("Starting training from iteration 0") == 1


@pytest.mark.parametrize(
    "command, options, message",
    [
        pytest.param(
            (sys.executable, TRAIN, "--num-gpus", "2", "--dist-url", "auto"),
            ("SOLVER.IMS_PER_BATCH", 3),
            "multiple of the 2 processes",
            marks=pytest.mark.slow,
        ),
        ((*TORCHRUN, TRAIN, "--num-gpus", "2"), (), "torchrun starts the processes already"),
    ],
)
def test_a_mistake_is_told_once(start, tmp_path, command, options, message):
    assert start(*command, options=options).wait(2 * LIMIT) == 1
    lines = (tmp_path / "output.txt").read_text().splitlines()
    assert [message in line for line in lines if line.startswith("error: ")] == [True]


def test_processes_share_the_threads(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    assert [share_threads(count) for count in (1, 2, 3, 8, 16)] == [8, 4, 2, 1, 1]


def meet(store, delays):
    """What processes that start after so many seconds leave in their part, and find there."""
    counts = {}

    def start(rank):
        time.sleep(delays[rank])
        part = own_part(store.clone(), rank, len(delays))
        arrived = part.add("arrived", 1)
        part.wait(["all"]) if arrived < len(delays) else part.set("all", "")
        counts[rank] = part.add("arrived", 0)

    threads = [threading.Thread(target=start, args=(rank,)) for rank in range(len(delays))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return counts


def test_processes_that_restart_meet_each_other_and_not_those_before():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=10))
    assert meet(store, [0, 0, 0]) == {0: 3, 1: 3, 2: 3}
    # One machine is back before another notices; then one is gone for good.
    assert meet(store, [0.5, 0, 1]) == {0: 3, 1: 3, 2: 3}
    assert meet(store, [0, 0.5]) == {0: 2, 1: 2}


def test_configs_that_differ(make_training_cfg, tmp_path):
    one, other = make_training_cfg(tmp_path), make_training_cfg(tmp_path)
    check_same([one, other])
    other.SOLVER.BASE_LR = 0.5
    with pytest.raises(ConfigError, match=r"SOLVER\.BASE_LR is 0\.5 on rank 1 and 0\.01 on rank 0"):
        check_same([one, other])
