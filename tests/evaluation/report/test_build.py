"""A report is one safe page that holds what the grids hold, or an error that says why not."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from mutualnet_det.evaluation.report import ReportError, build_report, write_report
from mutualnet_det.evaluation.results import GridError
from mutualnet_det.slimmable import OperatingPoint

EVIL = "</script><script>alert(1)</script><!-- {{data}} & <b>"


def content(page):
    """What the page holds as JSON."""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(data)


def test_it_holds_every_point_and_the_query_table(tmp_path, write_evaluation):
    grid = write_evaluation(tmp_path / "mutual")
    (run,) = content(build_report([tmp_path / "mutual"]))["runs"]
    assert run["name"] == "mutual"
    rows = {row["point"]: row for row in run["rows"]}
    assert len(rows) == 9
    for row in grid.rows:
        shown = rows[str(row.point)]
        assert shown["gflops"] == row.gflops
        assert shown["latency"]["Some GPU"]["p95"] == row.latency["Some GPU"].p95
        assert shown["scores"]["mask"]["APs"] == row.scores["mask"]["APs"]
        assert shown["classes"]["box"] == row.scores["box"]["per_class"]
    table = grid.query_table()
    assert run["table"] == [str(entry.point) for entry in table.entries] and len(run["table"]) < 9
    assert run["devices"] == list(table.devices)


def test_it_holds_cocos_own_ap_where_a_grid_has_it(tmp_path, write_evaluation):
    for name in ("few", "many"):
        write_evaluation(tmp_path / name)
    path = tmp_path / "many" / "grid" / "grid.json"
    grid = json.loads(path.read_text())
    for row in grid["rows"]:
        row["box"]["AP@100"] = 7.5
    path.write_text(json.dumps(grid))
    page = content(build_report([tmp_path / "few", tmp_path / "many"]))
    assert page["kinds"]["box"]["metrics"][-1] == "AP@100"
    assert "AP@100" not in page["kinds"]["mask"]["metrics"]
    few, many = (run["rows"][0]["scores"]["box"] for run in page["runs"])
    assert many["AP@100"] == 7.5 and "AP@100" not in few


def test_a_confusion_matrix_that_is_none(tmp_path, write_evaluation):
    grid = write_evaluation(tmp_path / "a")
    path = tmp_path / "a" / "grid" / "confusion" / f"{grid.rows[0].point}.csv"
    path.parent.mkdir()
    for text in ("", "a,b,missed\nb,1\n", "a,b,missed\nb,one,2\n"):
        path.write_text(text)
        with pytest.raises(ReportError, match=r"\.csv is no confusion matrix"):
            build_report([tmp_path / "a"])


def test_folders_are_found_and_named(tmp_path, write_evaluation):
    for name in ("a", "b"):
        write_evaluation(tmp_path / name)
    folders = [tmp_path / "a", tmp_path / "b" / "grid"]
    assert [r["name"] for r in content(build_report(folders))["runs"]] == ["a", "b"]
    named = content(build_report(folders, ["US-Net", "MutualNet"]))
    assert [run["name"] for run in named["runs"]] == ["US-Net", "MutualNet"]


class Elements(HTMLParser):
    """The elements of a page, and the text of its title."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.title = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, text):
        if self.tags and self.tags[-1][0] == "title":
            self.title += text


def test_names_with_markup_stay_text(tmp_path, write_evaluation, run_facts):
    run = run_facts(EVIL, f"DATASETS:\n  COCO_FORMAT: []\nX: {json.dumps(EVIL)}\n")
    write_evaluation(tmp_path / "m", run=run, classes=(EVIL, "dog"))
    page = build_report([tmp_path / "m"], [EVIL])
    elements = Elements(page)
    assert [a for tag, a in elements.tags if tag == "script"] == [
        {"type": "application/json", "id": "data"},
        {"type": "module"},
    ]
    assert EVIL in elements.title
    (run,) = content(page)["runs"]
    assert run["name"] == run["dataset"] == EVIL and EVIL in run["rows"][0]["classes"]["box"]


def test_nothing_is_loaded_from_elsewhere(tmp_path, write_evaluation):
    write_evaluation(tmp_path / "m")
    page = build_report([tmp_path / "m"])
    elements = Elements(page).tags
    links = [a[key] for _, a in elements for key in ("src", "href") if key in a]
    assert all(link.startswith("#") for link in links)
    (policy,) = [a["content"] for _, a in elements if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'")
    # Only this very script may run.
    (script,) = re.findall(r'<script type="module">(.*?)</script>', page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_scores_that_are_no_numbers_are_none(tmp_path, write_evaluation):
    write_evaluation(tmp_path / "m")
    path = tmp_path / "m" / "grid" / "grid.json"
    grid = json.loads(path.read_text())
    grid["rows"][0]["box"]["APs"] = float("nan")
    path.write_text(json.dumps(grid))
    (run,) = content(build_report([tmp_path / "m"]))["runs"]
    assert run["rows"][0]["scores"]["box"]["APs"] is None
    assert run["rows"][1]["scores"]["box"]["APs"] is not None


def test_runs_of_other_data_are_told_apart(tmp_path, write_evaluation, run_facts):
    write_evaluation(tmp_path / "a")
    write_evaluation(tmp_path / "b")
    write_evaluation(tmp_path / "c", run=run_facts(identity={"ground truth": "ba4"}))
    write_evaluation(tmp_path / "d", run=run_facts("others_val"))
    assert content(build_report([tmp_path / "a", tmp_path / "b"]))["warnings"] == []
    (same_name,) = content(build_report([tmp_path / "a", tmp_path / "c"]))["warnings"]
    assert "ground truth" in same_name and "things_val" in same_name
    (other,) = content(build_report([tmp_path / "a", tmp_path / "d"]))["warnings"]
    assert "a on things_val, d on others_val" in other


def test_settings_that_differ(tmp_path, write_evaluation, run_facts):
    config = "DATASETS:\n  COCO_FORMAT: []\nMODEL:\n  DEPTH: 50\n  WEIGHTS: {}\nMETHOD: {}\n"
    for name, method in (("a", "mutual"), ("b", "us_net")):
        run = run_facts(config=config.format(name, method))
        write_evaluation(tmp_path / name, run=run)
    page = content(build_report([tmp_path / "a", tmp_path / "b"]))
    assert page["settings"] == [{"key": "METHOD", "values": ["mutual", "us_net"]}]


def test_folders_that_no_report_can_be_made_of(tmp_path, write_evaluation, run_facts):
    with pytest.raises(ReportError, match="at least one folder"):
        build_report([])
    with pytest.raises(ReportError, match="no grid.json in .*nowhere.*mutualnet evaluate"):
        build_report([tmp_path / "nowhere"])
    write_evaluation(tmp_path / "a")
    write_evaluation(tmp_path / "b" / "a")
    with pytest.raises(ReportError, match="Two runs are named 'a'.*--names"):
        build_report([tmp_path / "a", tmp_path / "b" / "a"])
    with pytest.raises(ReportError, match="1 folders and 2 names .x, y."):
        build_report([tmp_path / "a"], ["x", "y"])
    with pytest.raises(ReportError, match="name of .* is empty"):
        build_report([tmp_path / "a"], [" "])
    write_evaluation(tmp_path / "classes", kinds=("class",))
    with pytest.raises(ReportError, match="share no score.*a: box, mask; classes: class"):
        build_report([tmp_path / "a", tmp_path / "classes"])
    run = run_facts()
    del run["device"]
    write_evaluation(tmp_path / "c", run=run)
    with pytest.raises(ReportError, match="lacks run.device"):
        build_report([tmp_path / "c"])
    write_evaluation(tmp_path / "d", points=[])
    with pytest.raises(ReportError, match="no operating points"):
        build_report([tmp_path / "d"])
    write_evaluation(tmp_path / "e", run=run_facts(config="a: [1"))
    with pytest.raises(ReportError, match="run.config is not valid YAML"):
        build_report([tmp_path / "e"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"schema": 2}, "has schema 2"),
        ({"rows": [{}]}, "not a grid.json"),
        (None, "not a grid.json"),
    ],
)
def test_grids_that_cannot_be_read(tmp_path, write_evaluation, change, message):
    write_evaluation(tmp_path / "a")
    path = tmp_path / "a" / "grid" / "grid.json"
    path.write_text("{" if change is None else json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(GridError, match=message):
        build_report([tmp_path / "a"])


def test_devices_of_only_some_points(tmp_path, write_evaluation):
    write_evaluation(tmp_path / "a")
    path = tmp_path / "a" / "grid" / "grid.json"
    grid = json.loads(path.read_text())
    del grid["rows"][-1]["latency"]["Some GPU"]
    path.write_text(json.dumps(grid))
    with pytest.raises(ReportError, match="gives no query table.*latency"):
        build_report([tmp_path / "a"])


def test_outputs(tmp_path, write_evaluation):
    write_evaluation(tmp_path / "a", points=[OperatingPoint(1.0, 480)])
    with pytest.raises(ReportError, match="ends in .html"):
        write_report([tmp_path / "a"], tmp_path / "a" / "grid" / "grid.json")
    (tmp_path / "taken.html").mkdir()
    with pytest.raises(ReportError, match="taken.html must be the name of a file"):
        write_report([tmp_path / "a"], tmp_path / "taken.html")
    with pytest.raises(ReportError, match="cannot be written"):
        write_report([tmp_path / "a"], tmp_path / "a" / "grid" / "grid.json" / "r.html")
    output = tmp_path / "new" / "report.html"
    for _ in range(2):  # an older report is replaced
        assert write_report([tmp_path / "a"], output) == output.stat().st_size
    assert [path.name for path in output.parent.iterdir()] == ["report.html"]
