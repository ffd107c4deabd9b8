"""The cost of width in inference: slimmable against plain layers, and switching."""

from __future__ import annotations

import time

import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from torch import nn

from ...calibration import calibrate_points
from ...config import full_point, grid_points
from ...modeling.build import build_network
from ...modeling.memory_format import laid_out
from ...runtime.device import device_of, wait_for
from ...slimmable import Calibrations, OperatingPoint, sliced
from .pairs import TimedPair, elapsed, time_pair


def lightly_calibrated(cfg: CfgNode) -> CfgNode:
    """The config with few calibration images: time does not depend on the statistics' values."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MUTUALNET.CALIBRATION.NUM_IMAGES = cfg.MUTUALNET.CALIBRATION.BATCH_SIZE
    cfg.freeze()
    return cfg


class _CalibratedModel:
    """A model of random weights, calibrated at its grid's widths at the largest resolution."""

    def __init__(self, cfg: CfgNode) -> None:
        seed_all_rng(0)
        cfg = self.cfg = lightly_calibrated(cfg)
        self.model = build_network(cfg).eval()
        self.device = device_of(self.model)
        self.calibrations = Calibrations(self.model)
        self.points = [p for p in grid_points(cfg) if p.resolution == full_point(cfg).resolution]
        calibrate_points(cfg, self.model, self.calibrations, self.points)

    def plain(self, point: OperatingPoint) -> nn.Module:
        with self.calibrations.at(point):
            network = sliced(self.model)
        return laid_out(network)  # as the slimmable one: what is compared is width


def square_image(cfg: CfgNode) -> list[dict]:
    """A batch of one square image of noise, of the largest resolution."""
    side = full_point(cfg).resolution
    generator = torch.Generator().manual_seed(0)
    return [{"image": torch.randint(0, 256, (3, side, side), generator=generator).float()}]


@torch.no_grad()
def compare_inference(cfg: CfgNode, rounds: int) -> list[TimedPair]:
    """
    The slimmable network against the same network of plain layers, at every width of the grid, on
    one square image of the largest resolution; switching is inside the timed part.
    """
    subject = _CalibratedModel(cfg)
    images = square_image(subject.cfg)
    pairs = []
    for point in subject.points:
        plain = subject.plain(point)

        def slimmable(point: OperatingPoint = point) -> None:
            with subject.calibrations.at(point):
                subject.model(images)

        def baseline(plain: nn.Module = plain) -> None:
            plain(images)

        name = f"inference at {point}, against plain layers"
        pairs.append(time_pair(name, slimmable, baseline, rounds, subject.device))
    return pairs


@torch.no_grad()
def compare_switching(cfg: CfgNode, rounds: int) -> list[TimedPair]:
    """The first forward after a switch, the switch included, against the next one at that point."""
    subject = _CalibratedModel(cfg)
    images = square_image(subject.cfg)
    pairs = []
    for number, point in enumerate(subject.points):
        other = subject.points[number - 1]
        times = []
        for _ in range(rounds + 1):
            with subject.calibrations.at(other):
                subject.model(images)
            wait_for(subject.device)
            start = time.perf_counter()
            with subject.calibrations.at(point):
                subject.model(images)
                wait_for(subject.device)
                first = (time.perf_counter() - start) * 1000
                steady = elapsed(lambda: subject.model(images), subject.device)
            times.append((first, steady))
        name = f"switch {other} to {point} and first forward, against the next forward"
        pairs.append(TimedPair.of(name, times[1:]))
    return pairs
