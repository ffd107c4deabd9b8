"""The command line of tools/benchmark_scaling.py."""

import pytest

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
