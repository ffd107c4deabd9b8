"""The command line of tools/profile_latency.py."""

import numpy as np
import pytest
from PIL import Image

from mutualnet_det.evaluation.latency import PointProfile
from mutualnet_det.evaluation.profile import Profile
from mutualnet_det.runtime import Latency, PredictorError
from mutualnet_det.slimmable import OperatingPoint
from tools import profile_latency as tool


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the folder of an evaluated model, or a --config-file"),
        (["one", "two"], "give the folder"),
        (["folder", "--detections", "5"], "--detections goes with --config-file"),
        (["--config-file", "c.yaml", "--name", "board"], "--name goes with a folder"),
        (["folder", "--images", "0"], "--images must be at least 1, got 0"),
        (["--config-file", "c.yaml", "--detections", "-1"], "--detections must be at least 0"),
    ],
)
def test_wrong_arguments(capsys, arguments, message):
    with pytest.raises(SystemExit):
        tool.parse_args(arguments)
    assert message in capsys.readouterr().err


def test_a_folder(monkeypatch, capsys):
    given = []

    def profile_folder(*args, **options):
        given.append((args, options))
        point = OperatingPoint(0.5, 64)
        return Profile("board", {point: 1.5}, {point: PointProfile(Latency(7.0, 9.0), 2.0)})

    monkeypatch.setattr(tool, "profile_folder", profile_folder)
    tool.main(tool.parse_args(["trained", "--device", "cpu", "--name", "board", "--images", "3"]))
    assert given == [(("trained", "cpu"), {"name": "board", "image_folder": None, "num_images": 3})]
    shown = capsys.readouterr().out
    assert "0.50x64" in shown and "on board" in shown and "tables in trained" in shown


@pytest.mark.parametrize("device", ["tpu", "cuda:99"])
def test_an_unknown_device(training_cfg, tmp_path, device):
    (tmp_path / "config.yaml").write_text(training_cfg.dump())
    with pytest.raises(PredictorError, match=f"--device '{device}' cannot be used here"):
        tool.main(
            tool.parse_args(["--config-file", str(tmp_path / "config.yaml"), "--device", device])
        )


def test_a_config_with_equal_detections(training_cfg, tmp_path, capsys):
    """Random weights, calibrated on the images; nothing is written."""
    training_cfg.OUTPUT_DIR = str(tmp_path / "output")
    (tmp_path / "config.yaml").write_text(training_cfg.dump())
    (tmp_path / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    for name in ("1.png", "2.png"):
        Image.fromarray(noise).save(tmp_path / "photos" / name)
    options = ["--image-folder", str(tmp_path / "photos"), "--images", "2", "--detections", "7"]
    overrides = ["MUTUALNET.GRID.RESOLUTIONS", "(32,)"]
    tool.main(
        tool.parse_args(["--config-file", str(tmp_path / "config.yaml"), *overrides, *options])
    )
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["0.25x32", "1.00x32"]
    assert [line.split()[-1] for line in lines[2:4]] == ["7.0", "7.0"]
    assert not (tmp_path / "output").exists()
