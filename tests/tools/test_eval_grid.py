"""The command line of tools/eval_grid.py."""

import importlib.util
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from mutualnet_det import add_mutualnet_config
from mutualnet_det.slimmable import OperatingPoint

TOOL = Path(__file__).parents[2] / "tools" / "eval_grid.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("eval_grid", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_mutualnet_config(cfg)
    cfg.MUTUALNET.RESOLUTIONS = (96, 64)
    return cfg


def points_of(tool, cfg, *arguments):
    return [str(point) for point in tool.chosen_points(tool.parse_args(arguments), cfg)]


def test_default_is_the_grid_of_the_config(tool, cfg):
    assert points_of(tool, cfg)[:3] == ["0.25x64", "0.25x96", "0.50x64"]
    assert len(points_of(tool, cfg)) == 8


def test_points(tool, cfg):
    assert points_of(tool, cfg, "--points", "1.0x96", ".5x64") == ["1.00x96", "0.50x64"]


def test_widths_and_resolutions(tool, cfg):
    assert points_of(tool, cfg, "--widths", "0.3", "--resolutions", "70", "80") == [
        "0.30x70",
        "0.30x80",
    ]
    assert points_of(tool, cfg, "--widths", "0.3") == ["0.30x64", "0.30x96"]
    assert len(points_of(tool, cfg, "--resolutions", "80")) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ["--points", "0.5x64", "MODEL.WEIGHTS", "x.pth", "SEED", "3"],
        ["--points", "0.5x64", "--resume", "MODEL.WEIGHTS", "x.pth", "SEED", "3"],
        ["--points", "0.5x64", "--output", "somewhere", "MODEL.WEIGHTS", "x.pth", "SEED", "3"],
    ],
)
def test_overrides_after_a_list(tool, arguments):
    args = tool.parse_args(arguments)
    assert args.points == [OperatingPoint(0.5, 64)]
    assert args.opts == ["MODEL.WEIGHTS", "x.pth", "SEED", "3"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--points", "0.5x64", "--widths", "0.5"], "give no --widths"),
        (["--points", "0.5"], "'0.5' is not an operating point"),
        (["--points", "MODEL.WEIGHTS", "x.pth"], "--points needs at least one value"),
        (["--widths", "0.5x64"], "--widths"),
        (["MODEL.WEIGHTS", "x.pth", "--points", "0.5x64"], "--points must come before"),
    ],
)
def test_wrong_arguments(tool, capsys, arguments, message):
    with pytest.raises(SystemExit):
        tool.parse_args(arguments)
    assert message in capsys.readouterr().err
