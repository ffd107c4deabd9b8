"""The command line of tools/benchmark_runtime.py."""

import pytest

from mutualnet_det.lab.bench.pairs import TimedPair
from tools import benchmark_runtime as tool


def test_wrong_arguments(capsys):
    with pytest.raises(SystemExit):
        tool.parse_args(["folder", "--rounds", "0"])
    assert "--rounds must be at least 1, got 0" in capsys.readouterr().err


def test_everything_is_compared_and_printed(model_folder, monkeypatch, capsys):
    given = {}

    def comparing(name):
        def compare(*args):
            given[name] = args
            return [TimedPair(f"{name} compared", 3.0, 2.0, 1.0, 1.5)]

        return compare

    names = ("predictor", "exports", "grid", "scoring")
    for name in names:
        monkeypatch.setattr(tool, f"compare_{name}", comparing(name))
    options = ["--points", "2", "--images", "5", "--rounds", "6", "--calls", "7"]
    tool.main(tool.parse_args([str(model_folder), "--device", "cpu", *options]))
    pretrained, *rest = given["grid"]
    points = sorted(pretrained.calibrations)
    assert rest == [[points[0], points[-1]], 5, 6]
    assert given["predictor"] == given["exports"] == (pretrained, 5, 7)
    assert given["scoring"][0] == model_folder / "grid"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("; a grid of 2 points")
    assert [line.split()[0] for line in lines[3:]] == list(names)
