"""The command line of tools/benchmark_scaling.py."""

import pytest

from mutualnet_det.lab.bench.scaling import StepCost
from tools import benchmark_scaling as tool

CONFIG = ("--config-file", "cfg.yaml")


def test_overrides_after_a_list():
    args = tool.parse_args([*CONFIG, "--processes", "1", "2", "SOLVER.IMS_PER_BATCH", "1"])
    assert args.processes == [1, 2] and args.machines == [1, 8]
    assert args.opts == ["SOLVER.IMS_PER_BATCH", "1"]
    args = tool.parse_args([*CONFIG, "--machines", "4", "--steps", "3", "SEED", "1"])
    assert args.processes is None and args.machines == [4]
    assert args.opts == ["SEED", "1"]


def test_wrong_numbers(capsys):
    with pytest.raises(SystemExit):
        tool.parse_args([*CONFIG, "--processes", "1.5"])
    assert "--processes: invalid literal for int() with base 10: '1.5'" in capsys.readouterr().err


def test_efficiency_is_against_one_process(monkeypatch, capsys):
    def measure(cfg, processes, steps):
        return StepCost(processes, 0.1 * processes, 0.0, 0.0, 0)

    monkeypatch.setattr(tool, "measure", measure)
    for processes in (["4", "2", "1"], ["2", "4"]):
        config = ["--config-file", "configs/quickstart_shapes.yaml"]
        tool.main(tool.parse_args([*config, "--processes", *processes]))
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        efficiency = {row[0]: row[-1] for row in rows if row and row[-1].endswith("%")}
        assert (efficiency["2"], efficiency["4"]) == ("50%", "25%")
