"""The query table: the frontier, looking a budget up, and refusing a table that is not right."""

import json
from dataclasses import replace

import pytest

from mutualnet_det.runtime import (
    BudgetError,
    Latency,
    QueryEntry,
    QueryTable,
    QueryTableError,
    frontier,
)
from mutualnet_det.runtime.query_table import SCORE_LABELS
from mutualnet_det.slimmable import OperatingPoint


def pairs(*entries):
    return frontier(entries, cost=lambda e: e[0], value=lambda e: e[1])


def on_cpu(p50, p95=None, memory=None):
    return {"CPU": Latency(p50, p50 if p95 is None else p95, memory)}


def make_table(**changes):
    entries = (
        QueryEntry(OperatingPoint(0.25, 240), 0.5, on_cpu(10.0, 11.5, 150.25), 10.0, 12.0),
        QueryEntry(OperatingPoint(0.625, 360), 2.0, on_cpu(20.0), 20.0, None),
        QueryEntry(OperatingPoint(1.0, 600), 9.5, on_cpu(80.5, 99.0), 30.25, 33.0),
    )
    fields = dict(entries=entries, metric="box_ap", model="c0ffee", dataset="shapes")
    fields["classes"] = ("circle", "square")
    return QueryTable(**(fields | changes))


def test_frontier_drops_what_a_cheaper_point_beats():
    assert pairs((3, 30), (1, 10), (2, 5), (4, 29), (5, 31)) == [(1, 10), (3, 30), (5, 31)]


def test_frontier_ties():
    # Equal cost: the better one; equal value: the cheaper one; equal in both: one of them.
    assert pairs((1, 10), (1, 12)) == [(1, 12)]
    assert pairs((2, 10), (1, 10)) == [(1, 10)]
    first, second = [1, 10], [1, 10]
    kept = pairs(first, second)
    assert len(kept) == 1 and kept[0] is first


def test_frontier_leaves_out_nulls():
    assert pairs((1, None), (None, 50), (2, 0.0)) == [(2, 0.0)]
    assert pairs((1, None)) == []


def test_table_of_entries_goes_by_the_metric():
    entries = [
        QueryEntry(OperatingPoint(0.25, 240), 1.0, box_ap=10.0, mask_ap=20.0),
        QueryEntry(OperatingPoint(0.5, 240), 2.0, box_ap=15.0, mask_ap=19.0),
    ]
    names = dict(model="", dataset="")
    assert len(QueryTable.of(entries, metric="box_ap", **names).entries) == 2
    assert QueryTable.of(entries, metric="mask_ap", **names).entries == (entries[0],)


@pytest.mark.parametrize(
    "budget, width", [(0.5, 0.25), (1.99, 0.25), (2.0, 0.625), (9.4, 0.625), (1e9, 1.0)]
)
def test_lookup_gives_the_best_within_the_budget(budget, width):
    assert make_table().lookup(gflops=budget).point.width == width


@pytest.mark.parametrize("budget", [0.49, 0, -1, float("nan")])
def test_lookup_of_an_impossible_budget_names_the_cheapest_point(budget):
    with pytest.raises(BudgetError, match=r"0\.25x240, costs 0\.5 GFLOPs"):
        make_table().lookup(gflops=budget)


def make_timed_table(**devices):
    """The table with these median milliseconds of its entries, by device."""
    entries = zip(make_table().entries, *devices.values(), strict=True)
    return make_table(
        entries=tuple(
            replace(
                e, latency={d: Latency(ms, 2 * ms) for d, ms in zip(devices, told, strict=True)}
            )
            for e, *told in entries
        )
    )


@pytest.mark.parametrize("budget, width", [(10, 0.625), (12, 0.625), (79, 0.625), (80, 1.0)])
def test_lookup_by_time(budget, width):
    """The best within the budget, also where a better point is the faster one."""
    assert make_timed_table(CPU=(12.0, 10.0, 80.0)).lookup(milliseconds=budget).point.width == width


def test_lookup_of_an_impossible_time_names_the_fastest_point():
    with pytest.raises(BudgetError, match=r"9\.9 ms\. .*0\.625x360, costs 10 ms"):
        make_timed_table(CPU=(12.0, 10.0, 80.0)).lookup(milliseconds=9.9)


@pytest.mark.parametrize("device, width", [("laptop", 0.625), ("board", 0.25)])
def test_lookup_by_time_on_one_of_several_devices(device, width):
    table = make_timed_table(laptop=(1.0, 2.0, 9.0), board=(5.0, 9.0, 99.0))
    assert table.devices == ("laptop", "board")
    assert table.lookup(milliseconds=5, device=device).point.width == width


@pytest.mark.parametrize(
    "devices, asked, message",
    [
        ({}, None, "has no latencies .* Add a device with `mutualnet profile`, or .* gflops"),
        ({}, "a", "has no latencies"),
        ({"a": (1, 2, 3), "b": (1, 2, 3)}, None, "of several devices: 'a', 'b'. Say which"),
        ({"a": (1, 2, 3)}, "b", "the device 'b'; it has: 'a'. Add it with `mutualnet profile"),
    ],
)
def test_lookup_by_time_needs_a_device_of_the_table(devices, asked, message):
    table = make_timed_table(**devices) if devices else make_untimed_table()
    with pytest.raises(BudgetError, match=message):
        table.lookup(milliseconds=1e9, device=asked)
    assert table.lookup(gflops=1e9) is table.best


def make_untimed_table():
    return make_table(entries=tuple(replace(e, latency={}) for e in make_table().entries))


@pytest.mark.parametrize(
    "budget, width", [({"gflops": 0.1}, 0.25), ({"milliseconds": 1}, 0.625), ({"gflops": 3}, 0.625)]
)
def test_clamping_gives_the_cheapest_where_none_fits(budget, width):
    entry = make_timed_table(CPU=(12.0, 10.0, 80.0)).lookup(clamp=True, **budget)
    assert entry.point.width == width


def test_clamping_gives_the_better_of_equally_fast_points():
    entry = make_timed_table(CPU=(10.0, 10.0, 80.0)).lookup(milliseconds=1, clamp=True)
    assert entry.point.width == 0.625


def test_points_of_any_frontier_are_kept_and_looked_up_by_it():
    """B is beaten in GFLOPs but fast on a board; C, fast on neither, is beaten everywhere."""
    entry = {
        name: QueryEntry(
            OperatingPoint(width, 240),
            gflops,
            {"laptop": Latency(laptop, laptop), "board": Latency(board, board)},
            box_ap=ap,
        )
        for name, width, gflops, laptop, board, ap in (
            ("D", 1.00, 4.0, 40.0, 400.0, 30.0),
            ("A", 0.25, 1.0, 10.0, 300.0, 20.0),
            ("B", 0.50, 2.0, 20.0, 100.0, 15.0),
            ("C", 0.75, 3.0, 30.0, 300.0, 14.0),
        )
    }
    table = QueryTable.of(entry.values(), metric="box_ap", model="", dataset="")
    assert table.entries == (entry["A"], entry["B"], entry["D"])
    assert table.lookup(gflops=3) == table.lookup(milliseconds=39, device="laptop") == entry["A"]
    assert table.lookup(milliseconds=299, device="board") == entry["B"]
    assert table.lookup(milliseconds=300, device="board") == entry["A"]
    assert table.by_latency("board") == [entry["B"], entry["A"], entry["D"]]


def test_the_best_entry_need_not_be_the_dearest():
    entries = (
        QueryEntry(OperatingPoint(0.5, 240), 1.0, on_cpu(30.0), box_ap=20.0),
        QueryEntry(OperatingPoint(1.0, 160), 2.0, on_cpu(10.0), box_ap=15.0),
    )
    assert make_table(entries=entries).best is entries[0]


def test_latency_of_times():
    times = [float(n) for n in range(1, 102)]
    assert Latency.of(times[::-1], 3.5) == Latency(51.0, 96.0, 3.5)
    assert Latency.of([7.0]) == Latency(7.0, 7.0, None)


@pytest.mark.parametrize("budget", [{}, {"gflops": 1, "milliseconds": 1}])
def test_lookup_needs_one_budget(budget):
    with pytest.raises(BudgetError, match="either gflops or milliseconds"):
        make_table().lookup(**budget)


def test_json_round_trip(tmp_path):
    path = tmp_path / "query_table.json"
    path.write_text(make_table().to_json())
    assert QueryTable.load(path) == make_table()


@pytest.mark.parametrize("metric", SCORE_LABELS)
def test_every_metric_comes_back(tmp_path, metric):
    entry = QueryEntry(OperatingPoint(0.25, 240), 0.5, on_cpu(10.0), **{metric: 12.5})
    table = make_table(entries=(entry,), metric=metric)
    (tmp_path / "query_table.json").write_text(table.to_json())
    assert QueryTable.load(tmp_path / "query_table.json") == table


def test_a_table_without_class_names_is_read(tmp_path):
    """As tables were before they had them."""
    table = json.loads(make_table().to_json())
    assert table.pop("classes") == ["circle", "square"]
    (tmp_path / "query_table.json").write_text(json.dumps(table))
    assert QueryTable.load(tmp_path / "query_table.json") == make_table(classes=())


def test_prints_every_entry_and_the_device():
    text = str(make_table())
    assert "0.625x360" in text and "30.2" in text and text.endswith(" on CPU")
    assert text.splitlines()[2].split() == [
        "0.25x240",
        "0.5",
        "10.0",
        "11.5",
        "150.2",
        "10.0",
        "12.0",
    ]
    assert text.splitlines()[3].split()[-1] == "-"  # mask AP of the second entry


def test_prints_several_devices_with_a_note_each():
    lines = str(make_timed_table(laptop=(1, 2, 3), board=(40, 50, 60))).splitlines()
    assert lines[1].index("ms [1]") < lines[1].index("ms [2]")
    assert lines[2].split()[2:8] == ["1.0", "2.0", "-", "40.0", "80.0", "-"]
    assert lines[-2].startswith("ms [1]") and lines[-2].endswith("laptop")
    assert lines[-1].startswith("ms [2]") and lines[-1].endswith("board")


@pytest.mark.parametrize("metrics", [("box_ap", "mask_ap", "keypoint_ap"), ("top1", "top5")])
def test_prints_values_under_their_labels(metrics):
    values = dict(zip(metrics, (12.3, 45.6, 78.9), strict=False))
    entry = QueryEntry(OperatingPoint(1.0, 600), 9.5, on_cpu(80.5), **values)
    header, row, _ = str(make_table(entries=(entry,), metric=metrics[0])).splitlines()[1:]
    assert len(header) == len(row)
    for name, value in values.items():
        end = header.index(SCORE_LABELS[name]) + len(SCORE_LABELS[name])
        assert row[:end].endswith(f" {value}")


def test_it_says_where_ap_is_not_cocos_own():
    values = dict(box_ap=50.0, box_ap_at_100=40.0, mask_ap=30.0, mask_ap_at_100=20.0)
    entry = QueryEntry(OperatingPoint(1.0, 600), 9.5, on_cpu(80.5), **values)
    lines = str(make_table(entries=(entry,))).splitlines()
    assert lines[1].split("  ")[-1] == "mask AP@100"
    assert lines[2].split()[-4:] == ["50.0", "30.0", "40.0", "20.0"]
    assert lines[-2].startswith("box AP and mask AP: of all detections that TEST.DETECTIONS_")
    assert lines[-1] == "box AP@100 and mask AP@100: COCO's own"
    assert "COCO" not in str(make_table())


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda t: t.update(schema=99), "schema is 99, this version reads 2. Update"),
        (lambda t: t.update(schema=1, device="CPU"), "schema is 1, .*Evaluate the grid again"),
        (lambda t: t.pop("schema"), "schema is missing"),
        (lambda t: t.update(schema=True), "schema must be a valid integer, got True"),
        (
            lambda t: t.update(metric="ap"),
            "metric must be one of .*box_ap, mask_ap, .*top5, got 'ap'",
        ),
        (lambda t: t.update(entries={}), "entries must be a valid array, got {}"),
        (lambda t: t.update(entries=[]), "entries must hold at least one"),
        (lambda t: t.update(model=3), "model must be a valid string, got 3"),
        (lambda t: t.update(classes="dog"), "classes must be a valid array, got 'dog'"),
        (lambda t: t.update(classes=["dog", 7]), r"classes\[1\] must be a valid string, got 7"),
        (lambda t: t["entries"].insert(0, 7), r"entries\[0\] must be an object"),
        (lambda t: t["entries"][1].pop("width"), r"entries\[1\]\.width is missing"),
        (lambda t: t["entries"][1].update(width="wide"), r"entries\[1\]\.width .*got 'wide'"),
        (lambda t: t["entries"][1].update(resolution=36.5), r"entries\[1\]\.resolution .*36\.5"),
        (lambda t: t["entries"][1].update(resolution=-1), r"entries\[1\]\.resolution .*-1"),
        (
            lambda t: t["entries"][1].update(gflops=0),
            r"entries\[1\]\.gflops .* greater than 0, got 0",
        ),
        (
            lambda t: t["entries"][1].update(gflops=True),
            r"entries\[1\]\.gflops .* number, got True",
        ),
        (
            lambda t: t["entries"][1].update(gflops=10**400),
            r"entries\[1\]\.gflops .* number, got 1000",
        ),
        (lambda t: t["entries"].reverse(), r"entries\[1\]\.gflops must be at least the 9\.5"),
        (
            lambda t: t["entries"][1].update(box_ap=31),
            r"entries\[2\]\.box_ap must be above .*got 30\.25; 1\.00x600 is of no use",
        ),
        (
            lambda t: t["entries"][1].update(width=0.25, resolution=240),
            r"entries\[1\] is 0\.25x240, as entries\[0\] is",
        ),
        (
            lambda t: t["entries"][1].update(mask_Ap=3),
            r"entries\[1\]: there is no key 'mask_Ap'; known are box_",
        ),
        (lambda t: t["entries"][1].pop("latency"), r"entries\[1\]\.latency is missing"),
        (lambda t: t["entries"][1].update(latency=20), r"entries\[1\]\.latency must be an object"),
        (
            lambda t: t["entries"][1].update(latency={}),
            r"entries\[1\]\.latency must be on the devices of .*, 'CPU'; got none",
        ),
        (
            lambda t: t["entries"][1]["latency"].update(phone=t["entries"][0]["latency"]["CPU"]),
            r"entries\[1\]\.latency must be on .*, 'CPU'; got 'CPU', 'phone'",
        ),
        (
            lambda t: t["entries"][1]["latency"].update(CPU=3),
            r"entries\[1\]\.latency\.CPU must be an object, got 3",
        ),
        *(
            (
                lambda t, field=field, value=value: t["entries"][1]["latency"]["CPU"].update(
                    {field: value}
                ),
                rf"entries\[1\]\.latency\.CPU\.{field} must be {message}",
            )
            for field, value, message in (
                ("p50", -1, "greater than 0, got -1"),
                ("p50", "20 ms", "a valid number, got '20 ms'"),
                ("p50", None, "a valid number, got None"),
                ("p95", float("nan"), "a finite number, got nan"),
                ("memory", 0, "greater than 0, got 0"),
            )
        ),
        (
            lambda t: t["entries"][1]["latency"]["CPU"].update(p95=19.9),
            r"entries\[1\]\.latency\.CPU: p95 must be at least the p50 of 20, got 19\.9",
        ),
        (
            lambda t: t["entries"][1]["latency"].update({"a phone": 3}),
            r"entries\[1\]\.latency\['a phone'\] must be an object, got 3",
        ),
        (lambda t: t.update(clases=["dog"]), "there is no key 'clases'; known are classes, "),
        (
            lambda t: t["entries"][1]["latency"]["CPU"].pop("memory"),
            r"entries\[1\]\.latency\.CPU\.memory is missing",
        ),
        (lambda t: t["entries"][1].update(box_ap=None), r"entries\[1\]\.box_ap must be a number"),
        (lambda t: t["entries"][0].pop("mask_ap"), r"entries\[0\]\.mask_ap is missing"),
    ],
)
def test_a_wrong_file_is_refused_with_the_field_named(tmp_path, edit, message):
    table = json.loads(make_table().to_json())
    edit(table)
    path = tmp_path / "query_table.json"
    path.write_text(json.dumps(table))
    with pytest.raises(QueryTableError, match=r"query_table\.json: .*" + message):
        QueryTable.load(path)


@pytest.mark.parametrize(
    "text, message",
    [("{", "not JSON"), ("[" * 100_000, "not JSON"), ("[]", "must be an object")],
    ids=["cut off", "deep", "a list"],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, text, message):
    path = tmp_path / "query_table.json"
    path.write_text(text)
    with pytest.raises(QueryTableError, match=message):
        QueryTable.load(path)
