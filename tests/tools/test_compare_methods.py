"""tools/compare_methods.py, from its command line to its results; with real trainings if slow."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from mutualnet_det.config import load_config
from mutualnet_det.lab.comparison import PlanError
from mutualnet_det.lab.comparison.compute import ComputeCounter
from mutualnet_det.lab.comparison.runs import locked
from tools import compare_methods as tool

ROOT = Path(__file__).parents[2]


@pytest.fixture
def plan_file(make_training_cfg, tmp_path):
    """Two methods with two seeds and two steps each."""
    (tmp_path / "base.yaml").write_text(make_training_cfg(tmp_path / "unused").dump())
    content = {
        "base": "base.yaml",
        "output": str(tmp_path / "output"),
        "seeds": [0, 1],
        "steps": 2,
        "options": {"SOLVER.CHECKPOINT_PERIOD": 1},
        "widths": [1.0],
        "resolutions": [64, 32],
        "methods": {
            "mutual": None,
            "independent": {"options": {"MUTUALNET.METHOD": "independent"}, "networks": ["1x64"]},
        },
        "resamples": 20,
    }
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def run(*arguments):
    tool.main(tool.parse_args(list(map(str, arguments))))


def test_dry_run_prints_the_commands(plan_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ComputeCounter, "step_gflops", lambda self, cfg: 4.0)
    run(plan_file, "--dry-run", "--output", tmp_path / "elsewhere")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"4 runs, 2 for each of the seeds 0, 1, into {tmp_path / 'elsewhere'}:"
    assert lines[4].split() == ["mutual", "2", "4.00", "0.01", "2"]
    assert lines[5].split() == ["independent", "1.00x64", "2", "4.00", "0.01", "1"]
    assert "seed 1" not in "".join(lines[6:])
    place = lines.index("independent 1.00x64, seed 0")
    program, name, *arguments = shlex.split(lines[place + 1])
    assert (program, name) == ("mutualnet", "train")
    assert arguments[:3] == ["--config-file", str(tmp_path / "base.yaml"), "--resume"]
    cfg = load_config(arguments[1], arguments[3:])
    assert str(tmp_path / "elsewhere" / "independent" / "1.00x64" / "seed0") == cfg.OUTPUT_DIR
    evaluate = shlex.split(lines[place + 2])
    assert evaluate[:2] == ["mutualnet", "evaluate"]
    assert "--resume" in evaluate and evaluate[evaluate.index("--points") + 1] == "1.00x64"
    assert evaluate[-2:] == ["MODEL.WEIGHTS", f"{cfg.OUTPUT_DIR}/model_final.pth"]
    assert not (tmp_path / "elsewhere").exists()


def test_a_pretraining_comes_first(plan_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ComputeCounter, "step_gflops", lambda self, cfg: 4.0)
    base, folder = ROOT / "configs" / "pretrain_shapes.yaml", tmp_path / "pretrained"
    content = yaml.safe_load(plan_file.read_text())
    content["pretrain"] = {"base": str(base), "output": str(folder), "steps": 5}
    plan_file.write_text(yaml.safe_dump(content))
    run(plan_file, "--dry-run")
    first, command, _, second, *_ = capsys.readouterr().out.splitlines()
    assert first == f"First, unless {folder} has it, 5 steps of pretraining:"
    assert second.startswith("4 runs")
    program, name, *arguments = shlex.split(command)
    assert (program, name) == ("mutualnet", "pretrain")
    assert load_config(arguments[1], arguments[3:]).SOLVER.MAX_ITER == 5

    # It fails: nothing else is begun.
    monkeypatch.setattr(tool, "check_datasets", lambda cfg: None)
    monkeypatch.setattr(tool, "tool_commands", lambda run: [["false"]])
    with pytest.raises(
        tool.RunsError, match=r"pretraining ended with status 1; .*\n.*nothing else"
    ):
        run(plan_file)
    assert json.loads((folder / "run.json").read_text())["finished"] is False
    assert not (tmp_path / "output" / "mutual").exists()
    # A run that cannot be continued is named before it.
    (tmp_path / "output" / "mutual" / "seed0").mkdir(parents=True)
    (tmp_path / "output" / "mutual" / "seed0" / "thesis.tex").touch()
    (folder / "run.log").unlink()
    with pytest.raises(PlanError, match="seed0 holds something else"):
        run(plan_file)
    assert not (folder / "run.log").exists()


def test_words_of_a_command_can_be_read_and_pasted():
    assert tool.quoted("['shapes_test']") == "\"['shapes_test']\""
    for word in ("a", "(1.0,)", "['shapes_test']", "it's $HOME", "'\"'", "a\\'b", "'!'"):
        assert shlex.split(tool.quoted(word)) == [word]


def test_numbers_of_processes(monkeypatch, plan_file, capsys):
    with pytest.raises(SystemExit):
        run(plan_file, "--num-processes", 0)
    assert "--num-processes must be at least 1, got 0" in capsys.readouterr().err
    monkeypatch.setattr(ComputeCounter, "step_gflops", lambda self, cfg: 4.0)
    plan = tool.read_plan(plan_file)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert tool.environments(plan, 2) == [{"OMP_NUM_THREADS": "3"}] * 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    # Of 64 cores, this process may use 8.
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert tool.default_processes(plan) == 8
    assert tool.environments(plan, 4) == [{"OMP_NUM_THREADS": "2"}] * 4


@pytest.mark.parametrize(("given", "gpus"), [(None, "010"), ("5,3", "535")])
def test_each_process_has_a_gpu_of_those_given(monkeypatch, given, gpus):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(tool, "uses_gpus", lambda plan: True)
    assert tool.default_processes(None) == 2
    assert [e["CUDA_VISIBLE_DEVICES"] for e in tool.environments(None, 3)] == list(gpus)


@pytest.mark.slow
def test_a_comparison_that_is_killed_and_has_a_failure_ends_well(plan_file, tmp_path):
    output = tmp_path / "output"
    command = [sys.executable, str(ROOT / "tools" / "compare_methods.py"), str(plan_file)]
    command += ["--num-processes", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    # Killed while the second run is at work.
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    second = output / "independent" / "1.00x64" / "seed0"
    try:
        while not (second / "run.log").exists():
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    first = output / "mutual" / "seed0"
    grid = first / "grid" / "grid.json"
    before = grid.stat().st_mtime_ns

    # It fails when it goes on, once what was at work has ended: a folder is where its log was.
    with locked(output, patient=True):
        (second / "log.txt").unlink(missing_ok=True)
        (second / "log.txt").mkdir()
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.returncode == 1
    assert (
        "1 of 4 runs failed" in again.stderr and f"{second / 'run.log'} ends with" in again.stderr
    )
    assert grid.stat().st_mtime_ns == before
    record = json.loads((output / "comparison.json").read_text())
    assert not record["complete"] and len(record["runs"]) == 3

    (second / "log.txt").rmdir()
    third = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert third.returncode == 0, third.stderr
    record = json.loads((output / "comparison.json").read_text())
    assert record["complete"] and len(record["runs"]) == 4
    assert "Box AP, mean ± standard deviation over seeds" in third.stdout
    assert {d["point"] for d in record["differences"]} == {"1.00x64"}
    assert [run["config"]["SEED"] for run in record["runs"]] == [0, 0, 1, 1]

    # The report lays them over one another.
    report = shlex.split(third.stdout.splitlines()[-1])
    assert report[:2] == ["mutualnet", "report"]
    subprocess.run([sys.executable, "-m", *report], env=environment, cwd=ROOT, check=True)
    assert (output / "report.html").stat().st_size > 10_000
