"""
What width costs: slimmable against plain layers, a mutual step against plain trainings, memory.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Keypoints, PolygonMasks
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import nn

from ..config import full_point, grid_points
from ..data.loader import build_training_loader
from ..data.views import scale_ratio, view_at
from ..evaluation.comparison import Comparison, compare, elapsed
from ..evaluation.latency import resident_memory
from ..modeling.build import build_network
from ..modeling.semantic import semantic_ground_truth
from ..runtime.device import wait_for
from ..slimmable import Calibrations, OperatingPoint, sliced
from .calibration import calibrate_points
from .optimizer import build_optimizer
from .trainer import MutualTrainer, build_sampler


def _lightly_calibrated(cfg: CfgNode) -> CfgNode:
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
        cfg = self.cfg = _lightly_calibrated(cfg)
        self.model = build_network(cfg).eval()
        self.calibrations = Calibrations(self.model)
        self.points = [p for p in grid_points(cfg) if p.resolution == full_point(cfg).resolution]
        calibrate_points(cfg, self.model, self.calibrations, self.points)

    def plain(self, point: OperatingPoint) -> nn.Module:
        with self.calibrations.at(point):
            # The same layout in memory: what is compared is width.
            return sliced(self.model).to(memory_format=torch.channels_last)

    def images(self) -> list[dict]:
        side = full_point(self.cfg).resolution
        generator = torch.Generator().manual_seed(0)
        return [{"image": torch.randint(0, 256, (3, side, side), generator=generator).float()}]


@torch.no_grad()
def compare_inference(cfg: CfgNode, rounds: int) -> list[Comparison]:
    """
    The slimmable network against the same network of plain layers, at every width of the grid, on
    one square image of the largest resolution; switching is inside the timed part.
    """
    subject = _CalibratedModel(cfg)
    images = subject.images()
    found = []
    for point in subject.points:
        plain = subject.plain(point)

        def slimmable(point: OperatingPoint = point) -> None:
            with subject.calibrations.at(point):
                subject.model(images)

        def baseline(plain: nn.Module = plain) -> None:
            plain(images)

        name = f"inference at {point}, against plain layers"
        found.append(compare(name, slimmable, baseline, rounds, subject.model.device))
    return found


@torch.no_grad()
def compare_switching(cfg: CfgNode, rounds: int) -> list[Comparison]:
    """The first forward after a switch, the switch included, against the next one at that point."""
    subject = _CalibratedModel(cfg)
    images = subject.images()
    found = []
    for number, point in enumerate(subject.points):
        other = subject.points[number - 1]
        times = []
        for _ in range(rounds + 1):
            with subject.calibrations.at(other):
                subject.model(images)
            wait_for(subject.model.device)
            start = time.perf_counter()
            with subject.calibrations.at(point):
                subject.model(images)
                wait_for(subject.model.device)
                first = (time.perf_counter() - start) * 1000
                steady = elapsed(lambda: subject.model(images), subject.model.device)
            times.append((first, steady))
        name = f"switch {other} to {point} and first forward, against the next forward"
        found.append(Comparison.of(name, times[1:]))
    return found


def compare_training(cfg: CfgNode, rounds: int) -> list[Comparison]:
    """
    A mutual step against its passes run as ordinary trainings: networks of plain layers at the same
    widths, on the same images at the same resolutions, each with its own proposals, targets and
    optimiser step.
    """
    seed_all_rng(0)
    cfg = _lightly_calibrated(cfg)
    trainer = MutualTrainer(cfg)
    sampler = build_sampler(cfg, trainer.seed)
    loader = iter(build_training_loader(cfg, trainer.seed, 0))
    calibrated = Calibrations(trainer.model)
    times = []
    with EventStorage(0) as trainer.storage:
        trainer.prepare(0)
        for iteration in range(rounds + 1):
            batch = next(loader)
            trainer.iter = iteration
            mutual = elapsed(trainer.run_step, trainer.model.device)
            plain = 0.0
            points = [p.point for p in sampler(iteration)]
            calibrated.clear()
            calibrate_points(cfg, trainer.model, calibrated, set(points))
            for point in points:
                with calibrated.at(point):
                    network = sliced(trainer.model).train()
                    network.to(memory_format=torch.channels_last)
                plain += elapsed(_plain_step(cfg, network, batch, point), trainer.model.device)
            times.append((mutual, plain))
    name = f"mutual step of {len(points)} passes, against as many plain trainings"
    return [Comparison.of(name, times[1:])]


def _plain_step(
    cfg: CfgNode, network: nn.Module, batch: list[dict], point: OperatingPoint
) -> Callable[[], None]:
    view = view_at(batch, point.resolution, cfg.INPUT.MAX_SIZE_TRAIN, network.device)
    for item in view:
        _scale_ground_truth(item)
    optimizer = build_optimizer(cfg, network)

    def step() -> None:
        optimizer.zero_grad()
        sum(network(view).values()).backward()
        optimizer.step()

    return step


def _scale_ground_truth(item: dict) -> None:
    """Scale what a view leaves at the source's scale: plain training does not know of two."""
    size = tuple(item["image"].shape[-2:])
    ratio = scale_ratio(item["source_size"], size)
    if "sem_seg" in item:
        (item["sem_seg"],) = semantic_ground_truth([item], [size])
    fields = item["instances"].get_fields() if "instances" in item else {}
    if "gt_masks" in fields:
        item["instances"].gt_masks = _scaled_masks(fields["gt_masks"], ratio, size)
    if "gt_keypoints" in fields:
        keypoints = fields["gt_keypoints"].tensor
        item["instances"].gt_keypoints = Keypoints(keypoints * keypoints.new_tensor([*ratio, 1]))


def _scaled_masks(
    masks: PolygonMasks | BitMasks, ratio: tuple[float, float], size: tuple[int, int]
) -> PolygonMasks | BitMasks:
    if isinstance(masks, BitMasks):
        return BitMasks(F.interpolate(masks.tensor[None].float(), size)[0] > 0.5)
    return PolygonMasks(
        [[(p.reshape(-1, 2) * ratio).reshape(-1) for p in polygons] for polygons in masks.polygons]
    )


def compare_memory(cfg: CfgNode, steps: int) -> Comparison:
    """
    Peak resident memory of a process that trains mutually, against one that trains the full network
    alone; the figures are MiB, not milliseconds.
    """
    peaks = {}
    for method in ("mutual", "independent"):
        part = cfg.clone()
        part.defrost()
        part.MUTUALNET.METHOD = method
        part.freeze()
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_train_and_report, args=(part, steps, sender))
        process.start()
        sender.close()
        peaks[method] = receiver.recv()
        process.join()
    mine, other = peaks["mutual"], peaks["independent"]
    name = "peak memory of mutual training, against the full network's"
    return Comparison.of(name, [(mine, other)])


def _train_and_report(cfg: CfgNode, steps: int, sender) -> None:
    import mutualnet_det  # noqa: F401  (registers in the new process)

    seed_all_rng(0)
    trainer = MutualTrainer(cfg)
    with EventStorage(0) as trainer.storage:
        trainer.prepare(0)
        for trainer.iter in range(steps):
            trainer.run_step()
    sender.send(_peak_memory())


def _peak_memory() -> float:
    """The largest resident set of this process so far, in MiB."""
    try:  # Linux hands ru_maxrss down from the process that started this one.
        return resident_memory("VmHWM")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)
