"""A row of a grid: whose latencies it has."""

from mutualnet_det.evaluation import GridRow
from mutualnet_det.evaluation.cost import Cost
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
