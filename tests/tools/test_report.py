"""The command line of tools/report.py."""

import json

import pytest

from mutualnet_det.errors import UserError
from mutualnet_det.evaluation.results import SCHEMA_VERSION
from tools import report as tool


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the tool from ``tmp_path``; gives what it prints."""

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        tool.main(tool.parse_args(arguments))
        return capsys.readouterr().out

    return run


@pytest.fixture
def evaluated(tmp_path):
    """Two evaluations of a classifier at one point, "a" and "b"."""
    point = {"width": 1.0, "resolution": 64, "detections_per_image": 0.0}
    cost = {"gflops": {"total": 1.0, "all": 1.0}, "gflops_per_detection": {}, "num_proposals": 0}
    latency = {"Some CPU": {"p50": 3.0, "p95": 4.0, "memory": None}}
    scores = {"class": {"top1": 70.0, "top5": 90.0}}
    row = {**point, **cost, "parameters": {"total": 9, "all": 9}, "latency": latency, **scores}
    names = ("dataset", "weights", "weights_fingerprint", "device", "config", "timing")
    facts = {**dict.fromkeys(names, "{}"), "num_images": 4, "versions": {}}
    facts["config"] = "DATASETS: {TEST: [x]}"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        content = {"schema": SCHEMA_VERSION, "run": facts, "rows": [row]}
        (tmp_path / name / "grid.json").write_text(json.dumps(content))


def test_report_of_two_runs(run, evaluated, tmp_path):
    printed = run("a", "b", "--output", "out/r.html", "--names", "MutualNet", "US-Net")
    page = (tmp_path / "out" / "r.html").read_text()
    assert '"name":"MutualNet"' in page and '"name":"US-Net"' in page
    assert printed == f"Written to out/r.html, {len(page.encode()) / 1e6:.1f} MB.\n"


def test_output_by_default(run, evaluated, tmp_path):
    run("a")
    assert '"name":"a"' in (tmp_path / "report.html").read_text()


def test_errors_are_the_users_to_mend(run, evaluated, tmp_path):
    with pytest.raises(UserError, match="2 folders and 1 names"):
        run("a", "b", "--names", "MutualNet")
    with pytest.raises(UserError, match="no grid.json in c"):
        run("a", "c")
    assert not list(tmp_path.glob("*.html"))
