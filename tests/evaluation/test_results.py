"""A row of a grid: whose latencies it has. A file that holds no grid."""

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
