"""Profiling an evaluated model: its tables get the device, and nothing else changes."""

import csv
import dataclasses
import json
import re
import shutil

import pytest
import torch
from PIL import Image

from mutualnet_det.checkpoint import MutualCheckpointer
from mutualnet_det.config import ConfigError
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.evaluation import Grid, GridRow
from mutualnet_det.evaluation import profile as profile_module
from mutualnet_det.evaluation.cost import Cost
from mutualnet_det.evaluation.latency import PointProfile, ProfileError
from mutualnet_det.evaluation.profile import Profile, profile_folder
from mutualnet_det.modeling.build import build_network
from mutualnet_det.runtime import BudgetPredictor, Latency, PredictorError, QueryTable
from mutualnet_det.runtime.device import device_name
from mutualnet_det.runtime.sources import SourceError
from mutualnet_det.slimmable import Calibrations, OperatingPoint

HERE = device_name(torch.device("cpu"))
# GFLOPs and AP; B is beaten by A where it was evaluated.
A, B, C = OperatingPoint(0.25, 32), OperatingPoint(0.25, 64), OperatingPoint(1.0, 64)
ROWS = {A: (1.0, 20.0), B: (2.0, 15.0), C: (4.0, 30.0)}


@pytest.fixture(scope="module")
def source(make_training_cfg, tmp_path_factory):
    """What a training and an evaluation on a laptop leave."""
    folder = tmp_path_factory.mktemp("source")
    cfg = make_training_cfg(folder)
    torch.manual_seed(0)
    model = build_network(cfg).eval()
    calibrations = Calibrations(model)
    images = [{"image": torch.rand(3, 64, 64) * 255} for _ in range(2)]
    for point in ROWS:
        calibrations.calibrate(point, [images])
    (folder / "config.yaml").write_text(cfg.dump())
    checkpointer = MutualCheckpointer(model, cfg, str(folder))
    checkpointer.save("model_final", calibrations=calibrations.state_dict())
    rows = []
    for point, (gflops, ap) in ROWS.items():
        cost = Cost({"backbone": gflops}, {}, 0, {"backbone": 10})
        latency = {"laptop": Latency(10 * gflops, 11 * gflops, 50.0)}
        scores = {"box": {"AP": ap, "per_class": {}}, "mask": None}
        scores["box"] |= dict.fromkeys(("AP50", "AP75", "APs", "APm", "APl"), ap)
        rows.append(GridRow(point, cost, 3.0, latency, scores))
    run = {"weights_fingerprint": calibrations.fingerprint(), "dataset": "tiny", "device": "laptop"}
    Grid(tuple(rows), run | {"classes": ["dog", "cat"]}).save(folder / "grid")
    return folder


@pytest.fixture
def folder(source, tmp_path):
    """A copy to change."""
    return shutil.copytree(source, tmp_path / "copy")


@pytest.fixture
def measured(monkeypatch):
    """Stands in for the measurement: B is the fastest. Tells what it was given."""

    class Measured:
        milliseconds = {A: 20.0, B: 5.0, C: 80.0}
        points = images = None

    def profile_points(cfg, model, points, at, images, num_forwards):
        Measured.points, Measured.images = points, images
        latencies = {p: Latency(Measured.milliseconds[p], 99.0, 60.0) for p in points}
        return {point: PointProfile(latency, 3.0) for point, latency in latencies.items()}

    monkeypatch.setattr(profile_module, "profile_points", profile_points)
    return Measured


def points_of(table):
    return [entry.point for entry in table.entries]


def test_the_device_joins_the_grid_and_its_tables(folder, measured):
    before = Grid.load(folder / "grid/grid.json")
    assert points_of(before.query_table()) == [A, C]
    profile_folder(folder, name="board", num_images=4)
    assert sorted(measured.points) == [A, B, C] and len(measured.images) == 4
    grid = Grid.load(folder / "grid/grid.json")
    assert grid.run == before.run
    for old, new in zip(before.rows, grid.rows, strict=True):
        expected = Latency(measured.milliseconds[new.point], 99.0, 60.0)
        assert list(new.latency.items()) == [*old.latency.items(), ("board", expected)]
        assert dataclasses.replace(new, latency=old.latency) == old
        assert new.milliseconds == old.milliseconds  # where it was evaluated
    with open(folder / "grid/grid.csv") as file:
        assert [float(row["p50_ms on board"]) for row in csv.DictReader(file)] == [20.0, 5.0, 80.0]
    # B is of use on the board.
    table = QueryTable.load(folder / "grid/query_table.json")
    assert table.devices == ("laptop", "board") and points_of(table) == [A, B, C]
    assert table.classes == ("dog", "cat")
    assert table.lookup(milliseconds=10, device="board").point == B
    assert table.lookup(milliseconds=10, device="laptop").point == A
    assert (folder / "grid/query_table.txt").read_text() == f"{table}\n"


def test_the_same_device_again_takes_its_own_place(folder, measured):
    profile_folder(folder, name="board", num_images=1)
    profile_folder(folder, name="laptop", num_images=1)
    measured.milliseconds = {A: 1.0, B: 2.0, C: 3.0}
    profile_folder(folder, name="board", num_images=1)
    table = QueryTable.load(folder / "grid/query_table.json")
    assert table.devices == ("laptop", "board") and points_of(table) == [A, B, C]
    assert table.lookup(milliseconds=2, device="board").point == A
    assert table.lookup(milliseconds=10, device="laptop").point == B


def test_without_a_name_a_predictor_finds_the_device(folder, measured):
    with pytest.raises(ValueError, match=f"{re.escape(HERE)}.*mutualnet profile"):
        BudgetPredictor.from_pretrained(folder)(Image.new("RGB", (64, 64)), milliseconds=20)
    profile_folder(folder, "cpu", num_images=1)
    prediction = BudgetPredictor.from_pretrained(folder)(
        Image.new("RGB", (64, 64)), milliseconds=20
    )
    assert prediction.point == A


def test_a_folder_with_a_table_alone(folder, measured, tmp_path):
    """As it is deployed: neither the grid nor the data set."""
    shutil.move(folder / "grid/query_table.json", folder / "query_table.json")
    shutil.rmtree(folder / "grid")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (90, 70)).save(tmp_path / "photos/1.png")
    profile_folder(folder, name="board", image_folder=str(tmp_path / "photos"), num_images=3)
    assert sorted(measured.points) == [A, C] and [i.shape for i in measured.images] == [(70, 90, 3)]
    table = QueryTable.load(folder / "query_table.json")
    assert table.devices == ("laptop", "board") and points_of(table) == [A, C]
    assert table.classes == ("dog", "cat")
    assert not (folder / "grid").exists()


def test_a_table_of_its_own_beside_the_grid_is_kept_up(folder, measured):
    shutil.copy(folder / "grid/query_table.json", folder / "query_table.json")
    profile_folder(folder, name="board", num_images=1)
    own = QueryTable.load(folder / "query_table.json")
    assert points_of(own) == [A, C] and own.devices == ("laptop", "board")
    assert points_of(QueryTable.load(folder / "grid/query_table.json")) == [A, B, C]


def test_measures_for_real(folder):
    profile = profile_folder(folder, "cpu", num_images=6)
    latency = {row.point: row.latency[HERE] for row in Grid.load(folder / "grid/grid.json").rows}
    assert latency == {point: measured.latency for point, measured in profile.points.items()}
    assert all(0 < measured.p50 <= measured.p95 for measured in latency.values())


# Refused before anything is measured --------------------------------------------------------------


@pytest.fixture
def not_measured(monkeypatch):
    def profile_points(*args):
        raise AssertionError("measured")

    monkeypatch.setattr(profile_module, "profile_points", profile_points)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "options", "error", "message"),
    [
        (None, {"device": "tpu"}, PredictorError, "device 'tpu' cannot be used here"),
        (None, {"name": " "}, ProfileError, "name of the device is empty"),
        (None, {"image_folder": "nowhere"}, SourceError, "no file or folder nowhere"),
        ("model_final.pth", {}, PredictorError, "has no model_final.pth"),
        ("grid/query_table.json", {}, PredictorError, "neither query_table.json nor grid/query"),
    ],
)
def test_refused(folder, not_measured, spoil, options, error, message):
    if spoil:
        (folder / spoil).unlink()
    with pytest.raises(error, match=message):
        profile_folder(folder, num_images=1, **options)


def test_a_grid_of_other_weights_is_refused(folder, not_measured):
    content = json.loads((folder / "grid/grid.json").read_text())
    content["run"]["weights_fingerprint"] = "0" * 64
    (folder / "grid/grid.json").write_text(json.dumps(content))
    with pytest.raises(PredictorError, match=r"grid\.json: The grid is of other weights"):
        profile_folder(folder, num_images=1)


def test_a_point_that_is_not_calibrated_is_refused(folder, not_measured):
    content = json.loads((folder / "grid/grid.json").read_text())
    content["rows"][0]["width"] = 0.3
    (folder / "grid/grid.json").write_text(json.dumps(content))
    with pytest.raises(ProfileError, match=r"0\.30x32 cannot be run.*calibrations\.pth"):
        profile_folder(folder, num_images=1)


def test_a_data_set_that_is_not_there_is_refused(folder, not_measured, monkeypatch):
    def dataset_records(cfg, name):
        raise DatasetError("There is no val.json.")

    monkeypatch.setattr(profile_module, "dataset_records", dataset_records)
    with pytest.raises(ProfileError, match=r"no val\.json\. To measure on other .*--image-folder"):
        profile_folder(folder, num_images=1)


def test_a_folder_that_cannot_be_written_is_refused(folder, not_measured, monkeypatch):
    def check_output_dir(path):
        assert path == str(folder / "grid")
        raise ConfigError("cannot be written")

    monkeypatch.setattr(profile_module, "check_output_dir", check_output_dir)
    with pytest.raises(ConfigError, match="cannot be written"):
        profile_folder(folder, num_images=1)


# Printing -----------------------------------------------------------------------------------------


def test_counted_beside_measured_speed_up():
    profile = Profile(
        "board",
        {C: 40.0, A: 2.0},
        {
            A: PointProfile(Latency(10.0, 12.0, None), 3.0),
            C: PointProfile(Latency(80.0, 90.0, 512.4), 5.5),
        },
    )
    lines = str(profile).splitlines()
    assert lines[2].split() == ["0.25x32", "2", "20.0x", "10.0", "12.0", "8.0x", "-", "3.0"]
    assert lines[3].split() == ["1.00x64", "40", "1.0x", "80.0", "90.0", "1.0x", "512", "5.5"]
    assert "on board" in lines[4] and "1.00x64" in lines[5]
