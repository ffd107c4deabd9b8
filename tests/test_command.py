"""The command `mutualnet`: its list, its tools, and what it says where something is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mutualnet

ROOT = Path(__file__).resolve().parents[1]


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_the_list_needs_the_standard_library_alone(arguments):
    """-S hides all installed packages, -E what PYTHONPATH might add."""
    command = [sys.executable, "-S", "-E", ROOT / "mutualnet.py", *arguments]
    listed = subprocess.run(command, capture_output=True, text=True, cwd=os.sep)
    assert (listed.returncode, listed.stderr) == (0, "")
    for name, command in mutualnet.commands().items():
        assert f"  {name} " in listed.stdout and command.summary in listed.stdout
    assert max(map(len, listed.stdout.splitlines())) <= 80


def test_every_tool_has_a_command():
    tools = sorted(path.stem for path in (ROOT / "tools").glob("*.py"))
    for of_the_repository in ("results", "cut_out_objects"):  # its own results and their data
        tools.remove(of_the_repository)
    assert sorted(command.tool for command in mutualnet.commands().values()) == tools


@pytest.mark.parametrize("name", mutualnet.commands())
def test_a_tool_is_called_as_its_command_in_its_help(name, capsys):
    tool = mutualnet.load_tool(name)
    assert tool.build_parser().format_usage().startswith(f"usage: mutualnet {name} [-h]")
    assert tool.main.__code__.co_varnames[0] == "args"
    with pytest.raises(SystemExit, match="0"):
        tool.parse_args(["--help"])
    assert "tools/" not in capsys.readouterr().out


def test_an_unknown_command_names_those_that_are_close(capsys):
    assert mutualnet.main(["evalute", "--resume"]) == 2
    assert "no command 'evalute'; did you mean evaluate?" in capsys.readouterr().err


def test_the_command_runs_a_tool_on_a_config_of_the_project(capsys):
    assert (
        mutualnet.main(["cost", "--config-file", "pretrain_shapes", "MODEL.DEVICE", "cpu"]) is None
    )
    assert "MFLOPs" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: There is no file .* quickstart_shapes"):
        mutualnet.main(["cost", "--config-file", "quickstart_shape"])


def test_without_detectron2_a_command_says_in_one_sentence_what_to_do():
    code = "import sys; sys.modules['detectron2'] = None; import mutualnet; sys.exit({})"
    told = run_python(code.format("mutualnet.main(['report', 'folder'])"))
    assert told.returncode == 1
    assert told.stderr == (
        "error: mutualnet_det needs Detectron2, which no package index carries: run "
        "`mutualnet install-detectron2`.\n"
    )
    doctor = run_python(code.format("mutualnet.main(['doctor'])"))
    assert "Does not fit: Detectron2" in doctor.stdout and doctor.stderr == ""


def test_without_a_library_a_command_names_it():
    code = (
        "import sys; sys.modules['shapely'] = None; import mutualnet; sys.exit(mutualnet.main({}))"
    )
    told = run_python(code.format(["report", "folder"]))
    assert told.returncode == 1
    assert "shapely" in told.stderr and told.stderr.endswith(
        "`mutualnet doctor` tells what to do.\n"
    )
