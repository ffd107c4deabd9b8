"""The command line of tools/plot_metrics.py."""

import json

import pytest
from PIL import Image

from mutualnet_det.errors import UserError
from tools import plot_metrics as tool


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the tool beside the trainings "a" and "b"; gives what it prints."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        record = {"iteration": 19, "full/total_loss": 1.0, "lr": 0.01, "seconds/data": 0.1}
        (tmp_path / name / "metrics.json").write_text(json.dumps(record) + "\n")

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        tool.main(tool.parse_args(arguments))
        return capsys.readouterr().out

    return run


def test_one_training_by_default(run, tmp_path):
    assert run("a") == "Written to training.png.\n"
    assert Image.open(tmp_path / "training.png").format == "PNG"


def test_two_trainings_by_name(run, tmp_path):
    assert run("a", "b", "--output", "both.svg", "--names", "MutualNet", "US-Net")
    # Text is drawn as paths, with the text itself beside them.
    page = (tmp_path / "both.svg").read_text()
    assert "MutualNet" in page and "US-Net" in page


def test_what_is_missing_is_named(run):
    with pytest.raises(UserError, match="c/metrics.json"):
        run("a", "c")
