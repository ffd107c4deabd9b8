"""Latency and memory of operating points: what is measured, in which order, and how much."""

import contextlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mutualnet_det.evaluation import latency
from mutualnet_det.evaluation.latency import (
    ProfileError,
    equal_detections,
    infer,
    largest_records,
    model_memory,
    peak_memory,
    profile_points,
)
from mutualnet_det.slimmable import Calibrations, OperatingPoint

CPU = torch.device("cpu")
MIB = 2**20
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's /proc")


@pytest.fixture
def model(make_slimmable_config, make_model):
    return make_model(make_slimmable_config())


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Memory -------------------------------------------------------------------------------------------


@on_linux
@pytest.mark.parametrize("size", [8, 32])
def test_the_peak_is_what_was_allocated(size):
    """Also if it is not the first time, and what is free by now was in use before."""
    for _ in range(2):
        torch.ones(64 * MIB // 4)
        peak = peak_memory(CPU, lambda: torch.ones(size * MIB // 4))
        assert peak == pytest.approx(size, abs=2)


@on_linux
def test_the_peak_is_not_hidden_by_what_was_freed_in_small_pieces():
    pieces = [bytearray(40_000) for _ in range(2000)]
    wall = bytearray(40_000)  # the heap cannot shrink below it
    del pieces
    peak = peak_memory(CPU, lambda: [bytearray(b"1" * 40_000) for _ in range(1000)])
    assert peak == pytest.approx(1000 * 40_000 / MIB, rel=0.1)
    assert wall


@pytest.mark.parametrize("missing", ["malloc_trim", "clear_refs"])
def test_no_peak_where_it_cannot_be_measured(monkeypatch, missing):
    if missing == "malloc_trim":
        monkeypatch.setattr(latency.ctypes, "CDLL", lambda _: object())
    else:
        monkeypatch.setattr(latency, "Path", _NoFile)
    assert peak_memory(CPU, lambda: None) is None


class _NoFile:
    def __init__(self, path):
        pass

    def write_text(self, text):
        raise PermissionError


def test_the_peak_on_a_gpu(monkeypatch):
    """What is allocated by then, on top of what was before; an older peak is forgotten."""
    gpu = {"now": 100 * MIB, "peak": 900 * MIB}
    cuda = latency.torch.cuda
    monkeypatch.setattr(cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(cuda, "memory_allocated", lambda device: gpu["now"])
    monkeypatch.setattr(cuda, "max_memory_allocated", lambda device: gpu["peak"])
    monkeypatch.setattr(cuda, "reset_peak_memory_stats", lambda device: gpu.update(peak=gpu["now"]))
    assert peak_memory(torch.device("cuda"), lambda: gpu.update(peak=150 * MIB)) == 50


@on_linux
def test_a_dearer_point_needs_more_memory(make_slimmable_config, model):
    cfg = make_slimmable_config("INPUT.MAX_SIZE_TEST", 1000)
    points = [OperatingPoint(0.25, 64), OperatingPoint(0.25, 480), OperatingPoint(1.0, 480)]
    calibrations = Calibrations(model)
    batch = [{"image": torch.as_tensor(noise(64, 64).transpose(2, 0, 1).copy())}] * 2
    for point in points:
        calibrations.calibrate(point, [batch])
    memory = model_memory(cfg, model, points, calibrations.at, [noise(480, 640)])
    weights = sum(parameter.nbytes for parameter in model.parameters()) / MIB
    assert weights < memory[points[0]] < memory[points[1]] - 2 < memory[points[2]] - 4


def test_memory_is_that_of_the_largest_image_that_the_network_sees(
    make_slimmable_config, model, monkeypatch
):
    seen = []
    monkeypatch.setattr(latency, "infer", lambda model, view: seen.append(tuple(view.shape[1:])))
    cfg = make_slimmable_config("INPUT.MAX_SIZE_TEST", 200)
    points = [OperatingPoint(1.0, 64), OperatingPoint(1.0, 160)]
    # On disk the first has most pixels. At 160 px the last one's long side is cut to 200 px.
    images = [noise(400, 400), noise(120, 160), noise(60, 180)]
    model_memory(cfg, model, points, lambda point: contextlib.nullcontext(), images)
    assert set(seen) == {(64, 192), (150, 200)}
    records = [{"height": image.shape[0], "width": image.shape[1]} for image in images]
    assert largest_records(cfg, records, (64,)) == [records[2]]
    assert largest_records(cfg, records, (64, 160)) in (records[1:], records[:0:-1])
    assert largest_records(cfg, [{}, {}], (64,)) == [{}]


# Order --------------------------------------------------------------------------------------------


PADS_TO_32 = SimpleNamespace(
    backbone=SimpleNamespace(size_divisibility=32, padding_constraints={}),
    training=False,
    eval=lambda: None,
    train=lambda mode: None,
)


@pytest.fixture
def machine(monkeypatch):
    """A machine that becomes ever slower: every forward takes 1 % longer than the one before."""

    class Machine:
        forwards = []  # (is timed, image's height)
        now = 1.0

    def infer(model, view):
        Machine.forwards.append((False, view.shape[1]))
        return [None] * 3, None

    def timed(model, view):
        Machine.forwards.append((True, view.shape[1]))
        Machine.now *= 1.01
        return ([None] * 3, None), Machine.now

    Machine.forwards = []
    monkeypatch.setattr(latency, "infer", infer)
    monkeypatch.setattr(latency, "timed", timed)
    monkeypatch.setattr(latency, "model_memory", lambda *args: dict.fromkeys(args[2], 5.0))
    return Machine


def test_points_take_turns(make_slimmable_config, machine):
    points = [OperatingPoint(width, 64) for width in (0.25, 0.5, 1.0)]
    chosen = []

    @contextlib.contextmanager
    def at(point):
        chosen.append(point)
        yield

    images = [noise(64, 80), noise(64, 70)]
    profiles = profile_points(
        make_slimmable_config(), PADS_TO_32, points, at, images, num_forwards=12
    )
    # One after the other, for three images at a time.
    assert chosen[3:] == points * 4
    by_visit = machine.forwards[3:]
    # The images have one shape when they are padded.
    assert [timed for timed, _ in by_visit[:15]] == [False, False, *[True] * 3] * 3
    assert [timed for timed, _ in by_visit[15:27]] == [False, *[True] * 3] * 3
    assert sum(timed for timed, _ in by_visit) == 12 * len(points)
    # Each to its end before the next, the last would be 27 % slower than the first.
    medians = [profile.latency.p50 for profile in profiles.values()]
    assert max(medians) / min(medians) < 1.08
    for profile in profiles.values():
        assert profile.latency.memory == 5.0 and profile.detections_per_image == 3
        assert profile.latency.p95 > profile.latency.p50


def test_images_are_taken_in_turn(make_slimmable_config, machine):
    images = [noise(height, 200) for height in (64, 80, 96)]
    points = [OperatingPoint(1.0, 64)]
    cfg = make_slimmable_config("INPUT.MAX_SIZE_TEST", 64)  # the heights differ
    at = lambda point: contextlib.nullcontext()  # noqa: E731
    profile_points(cfg, PADS_TO_32, points, at, images, num_forwards=4)
    heights = [height for timed, height in machine.forwards[1:] if timed]
    assert len(set(heights)) == 3 and heights[3] == heights[0]


def test_no_shape_is_timed_before_it_was_seen(make_slimmable_config, machine):
    images = [noise(height, 200) for height in (64, 120, 190)]  # padded: 64 x 128 twice, 64 x 96
    points = [OperatingPoint(width, 64) for width in (0.25, 1.0)]
    cfg = make_slimmable_config("INPUT.MAX_SIZE_TEST", 128)
    at = lambda point: contextlib.nullcontext()  # noqa: E731
    profile_points(cfg, PADS_TO_32, points, at, images, num_forwards=6)
    first_visits = [timed for timed, _ in machine.forwards[2:14]]
    assert first_visits == [False, False, True, True, False, True] * 2


# Equal numbers of detections ----------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 3, 150])
def test_equal_detections(model, count):
    image = torch.as_tensor(noise(64, 96).transpose(2, 0, 1).copy())
    with torch.no_grad():
        instances, _ = infer(model, image)
        with equal_detections(model, count):
            equal, _ = infer(model, image)
        again, _ = infer(model, image)
    assert 3 < len(instances) < 150
    assert len(equal) == count and equal.pred_masks.shape[0] == count
    kept = min(count, len(instances))
    assert torch.equal(equal.scores[:kept], instances.scores[:kept])
    assert (equal.pred_boxes.tensor[kept:] == torch.tensor([0.0, 0, 96, 64])).all()
    assert len(again) == len(instances)


def test_equal_detections_of_a_model_without_roi_heads():
    with pytest.raises(ProfileError, match="A Identity has no heads behind"):
        with equal_detections(torch.nn.Identity(), 5):
            pass
