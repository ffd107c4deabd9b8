"""Drawn curves show what the metrics hold, and metrics that cannot be drawn are named."""

import json

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from mutualnet_det.engine.curves import (
    MetricsError,
    compare_runs,
    draw_run,
    part_colour,
    read_runs,
    smoothed,
    write_curves,
)
from mutualnet_det.engine.timing import PARTS
from mutualnet_det.errors import UserError

SPLIT = {"data": 0.1, "student_forward": 0.3, "optimizer": 0.2, "other": 0.4}


def make_records(count=10, kinds=("full", "narrowest", "random"), split=SPLIT):
    return [
        {
            **{f"{kind}/total_loss": 5.0 - 0.1 * index + place for place, kind in enumerate(kinds)},
            **{f"seconds/{part}": seconds * (1 + index) for part, seconds in split.items()},
            **({"images_per_second": 8.0 / (1 + index), "peak_memory_mib": 700.0} if split else {}),
            "gradient_norm": 4.0,
            "lr": 0.01 * index,
            "iteration": 20 * index + 19,
        }
        for index in range(count)
    ]


@pytest.fixture
def write_run(tmp_path):
    def write(records, name="run", end="\n"):
        folder = tmp_path / name
        folder.mkdir()
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        (folder / "metrics.json").write_text("\n".join(lines) + end)
        return folder

    return write


def line_of(axes, label):
    (match,) = (line for line in axes.lines if line.get_label() == label)
    return match.get_xydata()


def names_in(legend):
    return [text.get_text() for text in legend.get_texts()]


# Drawing -----------------------------------------------------------------------------------------


def test_losses_of_each_kind(write_run):
    (run,) = read_runs([write_run(make_records())])
    losses, _, norm, rate, *_ = draw_run(run).axes
    assert names_in(losses.get_legend()) == ["full", "narrowest", "random"]
    raw = [line.get_xydata() for line in losses.lines if line.get_label().startswith("_")]
    for place, points in enumerate(raw):
        assert np.allclose(points, [(20 * i + 20, 5 - 0.1 * i + place) for i in range(10)])
    # A straight line stays one when it is smoothed, but at its ends.
    assert np.allclose(line_of(losses, "narrowest")[1:-1], raw[1][1:-1])
    assert norm.lines[0].get_ydata().tolist() == [4.0] * 10
    assert np.allclose(rate.lines[0].get_xydata(), [(20 * i + 20, 0.01 * i) for i in range(10)])


def test_parts_of_a_step_are_stacked_from_first_to_last(write_run):
    (run,) = read_runs([write_run(make_records())])
    axes = draw_run(run).axes[1]
    tops = [area.get_paths()[0].get_extents().y1 for area in axes.collections]
    assert np.allclose(tops, [1.0, 4.0, 6.0, 10.0])  # of the last record, ten times the first
    # From top to bottom, as they are stacked.
    legend = ["other  40%", "optimizer  20%", "student forward  30%", "data  10%"]
    assert names_in(axes.get_legend()) == legend


def test_pace_and_memory_start_at_zero(write_run):
    (run,) = read_runs([write_run(make_records())])
    *_, pace, memory = draw_run(run).axes
    assert np.allclose(pace.lines[0].get_ydata()[:2], [8, 4])
    assert set(memory.lines[0].get_ydata()) == {700}
    assert pace.get_ylim()[0] == memory.get_ylim()[0] == 0


def test_runs_are_laid_over_one_another_by_name(write_run):
    folders = [
        write_run(make_records(), "mutual"),
        write_run(make_records(5, ["full"], {"data": 0.5, "reduce": 1.5}), "alone"),
    ]
    figure = compare_runs(read_runs(folders, ["MutualNet", "alone"]))
    full, narrowest, _, step, norm, rate, pace, memory = figure.axes
    assert full.get_ylabel() == "loss, full"
    for axes in (full, norm, rate, pace, memory):
        assert len(line_of(axes, "MutualNet")) == 10
        assert len(line_of(axes, "alone")) == 5
    assert [line.get_label() for line in narrowest.lines if line.get_label()[0] != "_"] == [
        "MutualNet"
    ]
    # Means over the records: of 1, 2, ..., 10 times the first one, and of 1, ..., 5 times.
    ends = {
        run: max(bar.get_x() + bar.get_width() for bars in step.containers for bar in [bars[run]])
        for run in (0, 1)
    }
    assert ends == pytest.approx({0: 5.5, 1: 6.0})
    assert [label.get_text() for label in step.get_yticklabels()] == ["MutualNet", "alone"]


def test_a_part_has_its_own_colour():
    assert len({to_hex(part_colour(part)) for part in (*PARTS, "other")}) == len(PARTS) + 1


def test_keys_that_a_run_does_not_have(write_run):
    old = write_run(make_records(split={}), "old")
    figure = draw_run(read_runs([old])[0])
    said = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert said == ["not recorded"] * 3
    alike = read_runs([old, write_run(make_records(split={}), "older")])
    assert [axes.texts[0].get_text() for axes in compare_runs(alike).axes if axes.texts] == [
        "not recorded"
    ] * 3
    compared = compare_runs(read_runs([old, write_run(make_records(), "new")]))
    assert len(line_of(compared.axes[6], "new")) == 10


def test_one_record_and_losses_that_are_not_finite(write_run):
    nan = {"iteration": 39, "full/total_loss": float("nan")}
    (run,) = read_runs([write_run([make_records(1)[0], nan])])
    losses = draw_run(run).axes[0]
    assert line_of(losses, "full").tolist() == [[20, 5.0]]


def test_spikes_do_not_press_the_rest_together(write_run):
    records = make_records(100)
    records[0]["full/total_loss"] = 1e6
    (run,) = read_runs([write_run(records)])
    assert draw_run(run).axes[0].get_ylim()[1] < 100


@pytest.mark.parametrize("count", [1, 2, 3, 19, 400])
def test_smoothing_keeps_a_level_and_evens_out_noise(count):
    assert np.allclose(smoothed(np.full(count, 3.0)), 3.0)
    noise = np.random.default_rng(0).normal(size=count)
    assert smoothed(noise).shape == noise.shape
    if count == 400:
        assert smoothed(noise).std() < 0.3 * noise.std()


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_written_files(write_run, tmp_path, ending):
    output = tmp_path / "new" / f"curves{ending}"
    write_curves([write_run(make_records())], output)
    if ending == ".png":
        assert Image.open(output).width > 1000
    else:
        assert "<svg" in output.read_text()


# Errors ------------------------------------------------------------------------------------------


def test_a_run_in_progress(write_run):
    """A line that is being written is left out."""
    half = json.dumps(make_records()[-1])[:30]
    (run,) = read_runs([write_run([*make_records(9), half], end="")])
    assert len(run.records) == 9


@pytest.mark.parametrize("broken, said", [('{"lr": 0.1', "no JSON"), ("7", "'7'"), ("{}", "'{}'")])
def test_a_broken_line_is_named(write_run, broken, said):
    folder = write_run([make_records()[0], broken, make_records()[1]])
    with pytest.raises(MetricsError) as error:
        read_runs([folder])
    assert f"{folder / 'metrics.json'}, line 2, " in str(error.value) and said in str(error.value)


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "There is no"),
        (b"", "no losses"),
        (b'{"iteration": 19, "total_loss": 1.0}\n', "full/total_loss, narrowest/total_loss"),
        (b"\xff\xfe\n", "cannot be read"),
    ],
)
def test_metrics_that_cannot_be_drawn(tmp_path, content, said):
    if content is not None:
        (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(MetricsError, match=said) as error:
        read_runs([tmp_path])
    assert str(tmp_path / "metrics.json") in str(error.value)


def test_names_and_endings(write_run, tmp_path):
    folder = write_run(make_records())
    with pytest.raises(UserError, match="1 folders and 2 names"):
        read_runs([folder], ["a", "b"])
    with pytest.raises(MetricsError, match=r"'.txt'; expected .png"):
        write_curves([folder], tmp_path / "curves.txt")
    (tmp_path / "file").touch()
    with pytest.raises(MetricsError, match="file/curves.png cannot be written: File exists"):
        write_curves([folder], tmp_path / "file" / "curves.png")
