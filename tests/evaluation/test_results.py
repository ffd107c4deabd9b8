"""A row of a grid: whose latencies it has. A file that holds no grid."""

import csv
import dataclasses
import json

import pytest

from mutualnet_det.evaluation import Grid, GridRow
from mutualnet_det.evaluation.cost import Cost
from mutualnet_det.evaluation.results import GridError
from mutualnet_det.runtime import Latency
from mutualnet_det.slimmable import OperatingPoint

ROW = GridRow(
    OperatingPoint(0.5, 64),
    Cost({"network": 1.0}, {}, 0, {"network": 10}),
    0.0,
    {"worker": Latency(5.0, 6.0)},
    {"class": {"top1": 50.0, "top5": 90.0}},
)


def test_the_device_is_the_evaluations_whichever_process_scored():
    """The GPUs of one evaluation may differ, and CPU threads are shared among its processes."""
    row = ROW.evaluated_on("CPU, 4 threads", 120.5)
    assert row.latency == {"CPU, 4 threads": Latency(5.0, 6.0, 120.5)}


def test_milliseconds_stay_those_of_the_evaluation():
    row = ROW.with_latency("board", Latency(1.0, 2.0)).with_latency("worker", Latency(7.0, 8.0))
    assert list(row.latency) == ["worker", "board"] and row.milliseconds == 7.0
    assert GridRow.from_dict(row.to_dict()) == row


@pytest.mark.parametrize(
    "content",
    [b"{", b"\xff", b"[" * 100_000, b"[]", b'{"schema": 3, "run": {}, "rows": [{"gflops": 1}]}'],
    ids=["cut off", "not text", "deep", "a list", "a row that is none"],
)
def test_a_file_that_is_no_grid_is_named(tmp_path, content):
    path = tmp_path / "grid.json"
    path.write_bytes(content)
    with pytest.raises(GridError, match=r"grid\.json is not a grid\.json: "):
        Grid.load(path)


def test_a_row_that_was_timed_nowhere_is_refused(tmp_path):
    path = tmp_path / "grid.json"
    row = {**ROW.to_dict(), "latency": {}}
    path.write_text(json.dumps({"schema": 3, "run": {}, "rows": [row]}))
    with pytest.raises(GridError, match=r"grid\.json .*latency.*at least one device"):
        Grid.load(path)


def test_cocos_own_ap_stands_beside_one_of_more_detections(tmp_path):
    metrics = dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), 55.0)
    scores = {"box": {**metrics, "AP@100": 33.25, "per_class": {}}, "mask": None}
    row = dataclasses.replace(ROW, scores=scores)
    assert row.entry().box_ap == 55 and row.entry().box_ap_at_100 == 33.25
    grid = Grid((row,), {"weights_fingerprint": "", "dataset": "cells"})
    header, line = (text.split("  ") for text in str(grid).splitlines())
    assert "box AP@100" in header[-1] and line[-1].strip() == "33.2"
    grid.save(tmp_path)
    (saved,) = csv.DictReader((tmp_path / "grid.csv").open())
    assert saved["box_AP@100"] == "33.25" and "mask_AP@100" not in saved
    assert Grid.load(tmp_path / "grid.json") == grid
    assert "box AP@100" in (tmp_path / "query_table.txt").read_text()
    # Where AP is COCO's own, nothing else is shown.
    other = Grid((dataclasses.replace(ROW, scores={"box": metrics, "mask": None}),), grid.run)
    assert "@" not in str(other) and "@" not in str(other.query_table())
