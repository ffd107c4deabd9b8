"""The record of finished runs, and the tables and figures made of it."""

import csv
import io
import json
import math
import re
import statistics

import numpy as np
import pytest
from PIL import Image

from mutualnet_det.lab.comparison import RunsError, collect, read_plan, write_comparison
from mutualnet_det.lab.comparison.bootstrap import Bootstrap
from mutualnet_det.lab.comparison.results import SCHEMA_VERSION
from mutualnet_det.lab.comparison.table import comparison_csv, comparison_text

FOUND = {"mutual": 0.9, "us_net": 0.5, "independent": 0.7}


@pytest.fixture
def finished(plan, finish):
    """The AP of every run by point."""
    return {run.name: finish(run, FOUND[run.method.name]) for run in plan.runs}


@pytest.fixture
def record(plan, finished):
    return collect(plan, num_processes=1)


def cell(items, method, point="1.00x64"):
    (match,) = (i for i in items if (i["method"], i["point"], i["kind"]) == (method, point, "box"))
    return match


def test_scores_are_means_and_deviations_over_the_seeds(record, finished):
    aps = [finished[f"us_net, seed {seed}"]["0.25x32"] for seed in (0, 1)]
    score = cell(record["scores"], "us_net", "0.25x32")
    assert score["by_seed"] == {"0": aps[0], "1": aps[1]}
    assert score["mean"] == pytest.approx(statistics.mean(aps))
    assert score["spread"] == pytest.approx(abs(aps[0] - aps[1]) / 2**0.5)
    assert score["gflops"] == 8.0
    # An independent network counts at its own point.
    assert (
        cell(record["scores"], "independent")["by_seed"]["0"]
        == (finished["independent 1.00x64, seed 0"]["1.00x64"])
    )
    points = {s["point"] for s in record["scores"] if s["method"] == "independent"}
    assert points == {"1.00x64", "0.25x32"}


def test_differences_pair_seeds_and_resamples(record, plan, ground_truth):
    difference = cell(record["differences"], "us_net")
    mutual, us_net = (cell(record["scores"], name) for name in ("mutual", "us_net"))
    assert difference["mean"] == pytest.approx(us_net["mean"] - mutual["mean"])
    drawn = np.zeros(plan.resamples)
    for run in plan.runs:
        if run.method.name != "independent":
            path = run.folder / "grid" / "detections" / "1.00x64.bbox.json"
            ap = Bootstrap(ground_truth, plan.resamples).ap(json.loads(path.read_text()), "bbox")
            drawn += (ap if run.method.name == "us_net" else -ap) / 2
    assert [difference["low"], difference["high"]] == pytest.approx(
        np.percentile(drawn, (2.5, 97.5))
    )
    assert difference["low"] < difference["mean"] < difference["high"] < 0
    # With one degree of freedom, Student's distribution is Cauchy's.
    first, second = difference["by_seed"].values()
    t = abs(first + second) / abs(first - second)
    assert difference["p_value"] == pytest.approx(1 - 2 / math.pi * math.atan(t))
    assert not [d for d in record["differences"] if d["method"] == "mutual"]


def test_without_any_spread_nothing_is_tested(plan, finish):
    for run in plan.runs:
        finish(run, 0.9)  # alike with one seed
    difference = cell(collect(plan, 1)["differences"], "us_net")
    assert difference["mean"] == difference["spread"] == 0 and difference["p_value"] is None


def test_the_record_says_how_it_came_about(record, plan):
    assert json.loads(json.dumps(record)) == record and record["schema"] == SCHEMA_VERSION
    assert record["plan"]["seeds"] == [0, 1] and record["complete"]
    assert record["data"]["num_images"] == 20
    # 8 runs of half an hour, 2 at a time.
    assert (
        "seeds 0, 1, evaluated on 20 images of made_up; run on a device, 2 at a time, "
        "about 2.0 hours." in comparison_text(record)
    )
    run = record["runs"][1]
    assert (run["method"], run["seed"], run["steps"]) == ("us_net", 0, 2)
    assert run["versions"] == {"torch": "2.0"}
    assert run["gflops_per_step"] == 8.0 and run["seconds_per_step"] == 0.5
    assert run["config"]["MUTUALNET.METHOD"] == "us_net"
    assert set(run["points"]["1.00x64"]["box"]) == {"AP", "AP50", "AP75", "APs", "APm", "APl"}


def test_the_pretraining_is_told_of(write_plan, pretrain, counted, finish):
    plan = read_plan(write_plan(pretrain=pretrain))
    for run in plan.runs:
        finish(run, FOUND[run.method.name])
    record = collect(plan, 1)
    assert record["pretraining"]["steps"] == 5
    assert record["pretraining"]["config"]["MODEL.META_ARCHITECTURE"] == "MutualClassifier"
    row = "pretraining 1 5 - - {} {}"
    assert row.format("-", "-").split() in map(str.split, comparison_text(record).splitlines())
    plan.pretraining.folder.mkdir()
    (plan.pretraining.folder / "metrics.json").write_text('{"iteration": 4, "time": 12.0}\n')
    text = comparison_text(collect(plan, 1))
    assert row.format("12.000", "1.0").split() in map(str.split, text.splitlines())


def test_classifiers_are_compared_by_their_accuracy(
    write_plan, pretrain, counted, finish_classifier, tmp_path
):
    methods = {"mutual": None, "us_net": {"options": {"MUTUALNET.METHOD": "us_net"}}}
    path = write_plan(
        base=pretrain["base"], resolutions=[64, 40], methods=methods, claims=None, resamples=2000
    )
    plan = read_plan(path)
    for run in plan.runs:
        finish_classifier(run, right=(15 if run.method.name == "mutual" else 11) + run.seed)
    record = collect(plan, 1)
    assert "num_objects" not in record["data"]
    assert {score["kind"] for score in record["scores"]} == {"class"}
    assert record["scores"][0]["by_seed"] == {"0": 75.0, "1": 80.0}
    assert record["runs"][0]["points"]["1.00x64"]["class"] == {"top1": 75.0, "top5": 100.0}
    difference = record["differences"][0]
    # 4 images of 20 are right with the one alone: their number in a resample is binomial.
    deviation = 100 * math.sqrt(0.2 * 0.8 / 20)
    assert difference["mean"] == -20
    assert difference["low"] == pytest.approx(-20 - 1.96 * deviation, abs=2)
    text = write_comparison(record, tmp_path)
    assert "Top-1 accuracy, mean" in text and "AP" not in text
    assert (tmp_path / "accuracy_against_gflops.png").exists()


def test_resamples_are_kept_until_the_evaluation_changes(record, plan, finish, monkeypatch):
    def never(*args):
        raise AssertionError("resampled again")

    with monkeypatch.context() as patch:
        patch.setattr(Bootstrap, "ap", never)
        assert collect(plan, 1) == record
    path = plan.runs[0].folder / "grid" / "grid.json"
    path.write_text(path.read_text() + "\n")
    with monkeypatch.context() as patch:
        patch.setattr(Bootstrap, "ap", never)
        with pytest.raises(AssertionError, match="resampled again"):
            collect(plan, 1)


def test_several_processes_resample_alike(plan, finished):
    assert collect(plan, 2)["differences"] == collect(plan, 1)["differences"]


def test_what_is_missing_is_left_out(plan, finish):
    for run in plan.runs[:2] + plan.runs[4:5]:  # seed 0 of mutual and us_net, seed 1 of mutual
        finish(run, FOUND[run.method.name])
    record = collect(plan, 1)
    assert not record["complete"]
    assert cell(record["scores"], "us_net")["spread"] is None
    difference = cell(record["differences"], "us_net")
    assert list(difference["by_seed"]) == ["0"] and difference["p_value"] is None
    assert "NOT COMPLETE" in comparison_text(record)
    assert [claim["holds"] for claim in record["claims"]][-1] is None


def test_a_run_that_was_copied_without_its_evaluation_is_named(plan, finished):
    (plan.runs[1].folder / "grid" / "grid.json").unlink()
    with pytest.raises(RunsError, match="us_net/seed0 holds a finished run without its grid.json"):
        collect(plan, 1)


@pytest.mark.parametrize(
    ("missing", "num_processes"), [("ground_truth.json", 1), ("detections/0.25x32.bbox.json", 2)]
)
def test_a_run_that_was_copied_in_part_is_named(plan, finished, missing, num_processes):
    path = plan.runs[1].folder / "grid" / missing
    path.unlink()
    message = f"us_net/seed0 holds a finished run without its {path.name}"
    with pytest.raises(RunsError, match=message):
        collect(plan, num_processes)


def test_runs_of_other_versions_are_told_of(plan, finished, caplog):
    path = plan.runs[1].folder / "grid" / "grid.json"
    path.write_text(path.read_text().replace('"torch": "2.0"', '"torch": "3.0"'))
    collect(plan, 1)
    assert "us_net/seed0 was evaluated with {'torch': '3.0'}" in caplog.text


def test_runs_of_different_images_are_not_paired(plan, finished):
    path = plan.runs[1].folder / "grid" / "grid.json"
    path.write_text(path.read_text().replace("a digest", "another digest"))
    with pytest.raises(
        RunsError, match="us_net/seed0 and .*mutual/seed0 .* different ground truth"
    ):
        collect(plan, 1)


def test_a_run_that_was_interrupted_took_as_long_as_those_like_it(plan, finished):
    def interrupt(run):
        path = run.folder / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": None}))

    interrupt(plan.runs[0])
    assert collect(plan, 1)["hours"] == pytest.approx(2.0)
    for run in plan.runs:
        if run.method.name == "mutual":
            interrupt(run)
    record = collect(plan, 1)
    assert record["hours"] is None and "2 at a time." in comparison_text(record)


def test_one_seed_has_no_deviation(record):
    for score in record["scores"]:
        score["spread"] = None
    for difference in record["differences"]:
        difference["p_value"] = None
    text = comparison_text(record)
    assert "Box AP, one seed" in text and "deviation" not in text and "t-test" not in text


def test_differences_that_are_unlikely_by_chance_are_marked(record):
    marked, plain = [], []
    for number, difference in enumerate(record["differences"]):
        difference |= {"mean": number, "spread": 1.0, "p_value": 0.049 if number % 2 else 0.05}
        (marked if number % 2 else plain).append(f"+{number}.0 ± 1.0")
    text, markdown = comparison_text(record), comparison_text(record, markdown=True)
    assert "over images; *: p < 0.05 in a paired t-test over seeds" in text
    assert "over images; bold: p < 0.05 in a paired t-test over seeds" in markdown
    for shown in marked:
        assert f"* {shown} [" in text and f"| **{shown}** [" in re.sub(" +", " ", markdown)
    for shown in plain:
        assert f"{shown} [" in text and f"* {shown}" not in text and f"**{shown}" not in markdown


def test_a_point_that_nothing_is_held_against_has_no_difference(record):
    record["differences"] = [d for d in record["differences"] if d["point"] == "1.00x64"]
    parts = comparison_text(record).split("\n\n")
    (scores,) = (part for part in parts if part.startswith("Box AP,"))
    (differences,) = (part for part in parts if part.startswith("Box AP minus"))
    assert "0.25x32" in scores and "0.25x32" not in differences and "1.00x64" in differences


def test_a_budget_is_spent_on_the_best_point_that_it_allows(record):
    by_method = {
        "mutual": {"0.25x32": (0.0101, 30), "0.25x64": (0.02, 29), "1.00x64": (0.492, 60)},
        "us_net": {"0.25x32": (0.0104, 40), "1.00x32": (0.4, 50)},
        "independent": {"1.00x64": (0.5, 55)},
    }
    record["scores"] = [
        {
            "method": method,
            "point": point,
            "kind": "box",
            "gflops": gflops,
            "mean": mean,
            "spread": 1.0,
        }
        for method, points in by_method.items()
        for point, (gflops, mean) in points.items()
    ]
    text = comparison_text(record).split("Box AP of the best point")[1].split("\n\n")[0]
    assert [line.split() for line in text.splitlines()[3:]] == [
        # Points of about one cost share a row; a worse one that costs more has none.
        ["0.011", "30.0", "±", "1.0", "(0.25x32)", "40.0", "±", "1.0", "(0.25x32)", "-"],
        ["0.4", "30.0", "±", "1.0", "(0.25x32)", "50.0", "±", "1.0", "(1.00x32)", "-"],
        [
            "0.5",
            "60.0",
            "±",
            "1.0",
            "(1.00x64)",
            "50.0",
            "±",
            "1.0",
            "(1.00x32)",
            "55.0",
            "±",
            "1.0",
            "(1.00x64)",
        ],
    ]


def test_nothing_finished_is_a_record_too(plan, tmp_path):
    record = collect(plan, 1)
    assert record["scores"] == []
    assert "NOT COMPLETE" in write_comparison(record, tmp_path)


def test_the_tables_hold_every_number(record, tmp_path):
    text = write_comparison(record, tmp_path)
    assert text == (tmp_path / "comparison.txt").read_text()
    assert json.loads((tmp_path / "comparison.json").read_text()) == record
    for method in ("mutual", "us_net"):
        score = cell(record["scores"], method)
        assert f"{score['mean']:.1f} ± {score['spread']:.1f}" in text
    d = cell(record["differences"], "us_net")
    interval = f"[{d['low']:+.1f}, {d['high']:+.1f}]"
    assert f"{d['mean']:+.1f} ± {d['spread']:.1f} {interval}" in text
    assert "US-Net" in text and "independent 1.00x64" in text
    row = next(line for line in text.splitlines() if line.startswith("US-Net "))
    assert row.split() == ["US-Net", "2", "2", "8.00", "0.02", "0.500", "0.0"]
    markdown = (tmp_path / "comparison.md").read_text()
    assert (
        "### Box AP, mean ± standard deviation over seeds" in markdown and "| 1.00x64" in markdown
    )
    with Image.open(tmp_path / "ap_against_gflops.png") as image:
        assert image.width > 500
    rows = list(csv.DictReader(io.StringIO(comparison_csv(record))))
    assert len(rows) == len(record["scores"]) == 10
    row = next(r for r in rows if (r["method"], r["point"]) == ("us_net", "1.00x64"))
    assert float(row["difference"]) == d["mean"] and row["reference"] == "mutual"
    assert float(row["difference_spread"]) == d["spread"] and float(row["p_value"]) == d["p_value"]
    assert float(row["width"]) == 1.0 and row["resolution"] == "64"
    by_seed = dict(part.split(": ") for part in row["by_seed"].split("; "))
    assert by_seed.keys() == {"0", "1"}
    assert sum(map(float, by_seed.values())) / 2 == pytest.approx(float(row["mean"]), abs=0.01)


def test_each_study_has_a_table_and_a_figure(record, tmp_path):
    for method in record["methods"][1:]:
        method["study"] = "How: it is/trained"
    text = write_comparison(record, tmp_path)
    assert "How: it is/trained: Box AP, mean ± standard deviation over seeds" in text
    header = text.split("How: it is/trained: Box AP, mean")[1].splitlines()[1]
    assert header.split() == ["point", "mutual", "US-Net", "independent"]
    assert (tmp_path / "ap_against_gflops_how_it_is_trained.png").exists()
