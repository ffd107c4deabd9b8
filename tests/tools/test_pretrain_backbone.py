"""tools/pretrain_backbone.py and tools/eval_grid.py, as a user runs them on an image folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mutualnet_det.data.shapes.classes import VARIANT, generate_classes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path):
    def run_tool(tool, *args):
        return subprocess.run(
            [sys.executable, f"tools/{tool}.py", *map(str, args)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )

    return run_tool


def test_trains_and_evaluates_an_image_folder(run, tmp_path):
    folder = generate_classes(VARIANT, str(tmp_path / "images"), 80, 0)
    options = [
        *("DATASETS.IMAGE_FOLDERS", str([["mine", folder]])),
        *("DATASETS.TRAIN", "('mine',)", "DATASETS.TEST", "('mine',)", "MODEL.DEVICE", "cpu"),
        *("SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "OUTPUT_DIR", tmp_path / "out"),
        *("MUTUALNET.GRID.WIDTHS", "(0.25,1.0)", "MUTUALNET.GRID.RESOLUTIONS", "(64,40)"),
        *("MUTUALNET.CALIBRATION.NUM_IMAGES", 4),
    ]
    config = ("--config-file", "configs/pretrain_shapes.yaml")
    trained = run("pretrain_backbone", *config, *options)
    assert trained.returncode == 0, trained.stderr
    evaluated = run("eval_grid", *config, "--resume", *options)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "top-1" in evaluated.stdout
    grid = json.loads((tmp_path / "out" / "grid" / "grid.json").read_text())
    assert [(row["width"], row["resolution"]) for row in grid["rows"]] == [
        *((0.25, 40), (0.25, 64), (1.0, 40), (1.0, 64))
    ]
    again = run("pretrain_backbone", *config, *options)
    assert again.returncode == 1 and "Add --resume" in again.stderr


@pytest.mark.parametrize(
    ("tool", "config", "architecture"),
    [
        ("pretrain_backbone", "quickstart_shapes", "MutualRCNN"),
        ("train_net", "pretrain_shapes", "MutualClassifier"),
    ],
)
def test_both_tools_train_what_the_config_says(run, tmp_path, tool, config, architecture):
    out = tmp_path / "out"
    options = ("OUTPUT_DIR", out, "DATASETS.TRAIN", "('nothing',)")
    ended = run(tool, "--config-file", f"configs/{config}.yaml", *options)
    # The config was taken, and is kept; it is the data set that there is none of.
    assert ended.returncode == 1
    assert "names 'nothing', and there is no such data set" in ended.stderr.splitlines()[-1]
    assert f"META_ARCHITECTURE: {architecture}" in (out / "config.yaml").read_text()
