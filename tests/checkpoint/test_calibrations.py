"""Calibrations kept apart from the weights."""

import pytest
import torch

from mutualnet_det.checkpoint import (
    CheckpointError,
    add_calibrations,
    read_calibrations,
    write_calibrations,
)
from mutualnet_det.slimmable import (
    Calibrations,
    Channels,
    OperatingPoint,
    SlimmableBatchNorm2d,
    SlimmableConv2d,
)

NARROW, FULL = OperatingPoint(0.5, 32), OperatingPoint(1.0, 32)
SETTINGS = {"DATASETS.TRAIN": ["photos"], "MUTUALNET.CALIBRATION.NUM_IMAGES": 4}


def make(seed=0, channels=16):
    torch.manual_seed(seed)
    dimension = Channels(channels)
    return torch.nn.Sequential(
        SlimmableConv2d(Channels.fixed(3), dimension, 3), SlimmableBatchNorm2d(dimension)
    ).eval()


def calibrated(model, *points, seed=1):
    calibrations = Calibrations(model)
    batch = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    for point in points:
        calibrations.calibrate(point, [batch])
    return calibrations


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "calibrations.pth")


def test_what_is_kept_is_what_was_calibrated(path):
    write_calibrations(path, calibrated(make(), NARROW, FULL), [NARROW], SETTINGS)
    state, settings = read_calibrations(path)
    assert settings == SETTINGS and list(state["points"]) == ["0.50x32"]
    model = make()
    calibrations = Calibrations(model)
    add_calibrations(calibrations, path)
    assert list(calibrations) == [NARROW]
    x = torch.rand(1, 3, 8, 8)
    with calibrated(model, NARROW).at(NARROW):
        expected = model(x)
    with calibrations.at(NARROW):
        assert torch.equal(model(x), expected)


def test_what_the_weights_came_with_stays(path):
    write_calibrations(path, calibrated(make(), NARROW, FULL, seed=2), [NARROW, FULL], SETTINGS)
    calibrations = calibrated(make(), NARROW)
    before = calibrations.state_dict()["points"]["0.50x32"]
    add_calibrations(calibrations, path)
    assert set(calibrations) == {NARROW, FULL}
    after = calibrations.state_dict()["points"]["0.50x32"]
    assert all(
        torch.equal(a, b) for name in before for a, b in zip(before[name], after[name], strict=True)
    )


def test_those_of_other_weights_are_refused(path):
    write_calibrations(path, calibrated(make(), NARROW), [NARROW], SETTINGS)
    calibrations = Calibrations(make(seed=5))
    with pytest.raises(CheckpointError, match=r"calibrations\.pth was made with other weights"):
        add_calibrations(calibrations, path)
    assert not len(calibrations)


@pytest.mark.parametrize(
    "content",
    [
        {"model": {}},
        {"model": {}, "calibrations": {"points": {}}, "settings": {}},
        {"model": {}, "calibrations": {"fingerprint": "", "points": {}}},
        {"model": {"weight": torch.zeros(1)}},
    ],
)
def test_another_file_is_refused(path, content):
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"calibrations\.pth"):
        read_calibrations(path)


def test_a_changed_file_is_refused(path):
    calibrations = calibrated(make(), NARROW)
    write_calibrations(path, calibrations, [NARROW], SETTINGS)
    content = torch.load(path, weights_only=True)
    for broken in (
        {"half x 32": content["calibrations"]["points"]["0.50x32"]},
        {"0.50x32": {"elsewhere": []}},
        {"0.50x32": []},
        {"0.50x32": {"1": [1, 2]}},
    ):
        content["calibrations"]["points"] = broken
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=r"calibrations\.pth does not fit"):
            add_calibrations(Calibrations(make()), path)


def test_a_file_that_is_missing_or_cut_is_refused(path):
    with pytest.raises(CheckpointError, match=r"There is no checkpoint .*calibrations\.pth"):
        read_calibrations(path)
    write_calibrations(path, calibrated(make(), NARROW), [NARROW], SETTINGS)
    with open(path, "r+b") as file:
        file.truncate(100)
    with pytest.raises(CheckpointError, match=r"calibrations\.pth \(100 bytes\) is truncated"):
        read_calibrations(path)
