"""
The cost of a mutual training step: its parts, and against plain and naive training, in turn.

All that is compared takes its step in one process on the same batch, at the same precision and
memory layout; the loader's work is given apart, since worker processes do it meanwhile.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeTransform
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.solver import build_optimizer
from detectron2.structures import BitMasks, Keypoints, PolygonMasks
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from tabulate import tabulate
from torch import Tensor, nn

from ...calibration import calibrate_points
from ...config import full_point
from ...data.loader import build_training_loader
from ...data.views import resized_shape, scale_ratio, view_at
from ...engine.metrics import process_peak_memory
from ...engine.sampling import build_sampler
from ...engine.timing import PARTS
from ...engine.trainer import MutualTrainer
from ...modeling.build import build_network
from ...modeling.memory_format import laid_out
from ...modeling.meta_arch import Teacher
from ...modeling.semantic import semantic_ground_truth
from ...precision import training_dtype
from ...runtime.device import device_of
from ...slimmable import Calibrations, OperatingPoint, at_width, sliced
from .layers import lightly_calibrated
from .pairs import TimedPair, elapsed, timings_table

# Rounds that do not count: the first steps compile kernels and fill caches.
WARM_UP = 2


@dataclass(frozen=True)
class TrainingCost:
    """
    The cost of a mutual training, in time and memory.

    Attributes:
        parts: median ms of each part of a mutual step, by StepTimer's names.
        steps: mutual against other ways to take a step.
        memory: peak memory in MiB, of a mutual training against one of the full network.
    """

    parts: dict[str, float]
    steps: list[TimedPair]
    memory: TimedPair

    def __str__(self) -> str:
        headers = ("part of a mutual step", "ms", "share")
        # The loader's processes work beside the step.
        whole = sum(self.parts[part] for part in PARTS[1:])
        rows = [(part, self.parts[part], self.parts[part] / whole) for part in PARTS[1:]]
        split = tabulate(rows, headers, floatfmt=("", ".1f", ".1%"))
        memory = self.memory
        return (
            f"{split}\n\n"
            f"data: {self.parts['data']:.1f} ms a batch for one process of the loader\n\n"
            f"{timings_table(self.steps)}\n"
            f"{memory.name}: {memory.milliseconds:.0f} / {memory.baseline:.0f} MiB = "
            f"{memory.ratio:.3f}"
        )


def measure_training(cfg: CfgNode, rounds: int) -> TrainingCost:
    """
    Time the steps of a training, and of others, in turn.

    Args:
        cfg: of a mutual training.
        rounds: timed steps of each.
    """
    parts, steps = compare_steps(cfg, rounds)
    return TrainingCost(parts, steps, compare_memory(cfg, rounds))


def compare_steps(cfg: CfgNode, rounds: int) -> tuple[dict[str, float], list[TimedPair]]:
    """
    Time the parts of a mutual step, and the step against three others.

    - Its passes run as ordinary trainings: networks of plain layers at the same widths, on images
      that come at the right size, each with its own proposals, targets and optimiser step;
    - a naive mutual step: see :class:`NaiveTrainer`;
    - Detectron2's step of the full network alone; which the step of the slimmable full network
      alone is compared with, too.
    """
    seed_all_rng(0)
    cfg = lightly_calibrated(cfg)
    mutual = Steps(MutualTrainer(cfg))
    naive = Steps(NaiveTrainer(cfg))
    alone = Steps(MutualTrainer(overridden(cfg, "MUTUALNET.METHOD", "independent")))
    plain = _PlainTrainings(cfg)
    sampler = build_sampler(cfg, mutual.trainer.seed)
    batches = build_training_loader(cfg, mutual.trainer.seed, 0)
    times: dict[str, list[float]] = {}
    plain_times: list[list[float]] = []  # of each network
    parts: dict[str, list[float]] = {}
    for iteration in range(WARM_UP + rounds):
        start = time.perf_counter()
        batch = next(batches)
        loading = time.perf_counter() - start
        passes = sampler(iteration)
        networks = [(p.point, plain.network(mutual.trainer.model, p.point)) for p in passes]
        measured = {
            "mutual": mutual.take(batch, iteration),
            "naive": naive.take(batch, iteration),
            "alone": alone.take(batch, iteration),
        }
        each_plain = [plain.take(network, batch, point) for point, network in networks]
        split = {**mutual.trainer.timer.collect(), "data": loading}
        if iteration >= WARM_UP:
            for name, milliseconds in measured.items():
                times.setdefault(name, []).append(milliseconds)
            plain_times.append(each_plain)
            for name in PARTS:
                parts.setdefault(name, []).append(split.get(name, 0.0) * 1000)
    mine, full = times["mutual"], [each[0] for each in plain_times]
    steps = [
        TimedPair.of(f"{name}, against {other}", list(zip(ours, theirs, strict=True)))
        for name, ours, other, theirs in (
            (
                f"mutual step of {len(passes)} passes",
                mine,
                "as many plain trainings",
                [sum(each) for each in plain_times],
            ),
            ("naive mutual step", times["naive"], "the mutual step", mine),
            ("slimmable full network alone", times["alone"], "Detectron2's", full),
            ("mutual step", mine, "Detectron2's of the full network", full),
        )
    ]
    return {name: statistics.median(values) for name, values in parts.items()}, steps


def overridden(cfg: CfgNode, *overrides: object) -> CfgNode:
    """The config with ``KEY VALUE`` overrides."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(list(overrides))
    cfg.freeze()
    return cfg


class Steps:
    """A MutualTrainer that takes one step at a time, on a batch that it is given."""

    def __init__(self, trainer: MutualTrainer) -> None:
        self.trainer = trainer
        trainer.prepare(0)

    def take(self, batch: list[dict], iteration: int) -> float:
        """The ms of a step."""
        self.trainer.iter = iteration
        with EventStorage(iteration) as self.trainer.storage:
            step = partial(self.trainer.train_on, batch)
            return elapsed(step, device_of(self.trainer.model))


class NaiveTrainer(MutualTrainer):
    """
    Mutual training as it is written down first, from the parts that plain training has.

    Each pass resizes images and ground truth on the CPU, as a mapper does, and has proposals and
    targets of its own; the full network runs once more for each sub-network, to teach it on them.
    """

    model: Any  # whose lesson it replaces

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(overridden(cfg, "MUTUALNET.PROPOSALS", "own"))
        self._study, self.model.study = self.model.study, self._study_anew
        self._batch: list[dict] = []

    def view(self, batch: list[dict], resolution: int) -> list[dict]:
        self._batch = batch
        return naive_view(batch, resolution, self.cfg.INPUT.MAX_SIZE_TRAIN, self.model.device)

    def _study_anew(self, view: list[dict], teacher: object) -> dict[str, Tensor]:
        if isinstance(teacher, Teacher):  # an R-CNN's; others have no features to run again
            images = self.model.preprocess_image(self._batch)
            with torch.no_grad(), at_width(self.model, full_point(self.cfg).width, track=False):
                teacher = replace(teacher, features=self.model.backbone(images.tensor))
            torch.clear_autocast_cache()  # of casts without gradients, which the student would take
        return self._study(view, teacher)


class _PlainTrainings:
    """Detectron2's training of the networks of plain layers that a slimmable one contains."""

    def __init__(self, cfg: CfgNode) -> None:
        self._cfg = cfg

    def network(self, model: nn.Module, point: OperatingPoint) -> nn.Module:
        """The plain network that ``model`` is at ``point``, laid out in memory as it is."""
        calibrations = Calibrations(model)
        calibrate_points(self._cfg, model, calibrations, [point])
        with calibrations.at(point):
            network = sliced(model)
        return laid_out(network, training_dtype(self._cfg)).train()

    def take(self, network: nn.Module, batch: list[dict], point: OperatingPoint) -> float:
        """The ms of a step on the batch at ``point``'s resolution, resized beforehand."""
        device = device_of(network)
        view = view_at(batch, point.resolution, self._cfg.INPUT.MAX_SIZE_TRAIN)
        for item in view:
            scale_ground_truth(item)
        trainer = _plain_trainer(self._cfg, network, iter([view]))
        trainer.iter = 0
        with EventStorage(0):
            return elapsed(trainer.run_step, device)


def _plain_trainer(
    cfg: CfgNode, network: nn.Module, batches: Iterator[list[dict]]
) -> SimpleTrainer:
    """Detectron2's trainer, with an optimiser of its own, at the config's precision."""
    trainer_class, dtype = SimpleTrainer, training_dtype(cfg)
    if dtype == torch.float16:
        trainer_class = AMPTrainer
    elif dtype == torch.bfloat16:  # AMPTrainer always scales, and knows no CPU
        network.forward = torch.autocast(device_of(network).type, dtype)(network.forward)
    return trainer_class(network, batches, build_optimizer(cfg, network))


# Views as others make them -----------------------------------------------------------------------


def naive_view(batch: list[dict], resolution: int, max_size: int, device) -> list[dict]:
    """A batch resized as Detectron2's mapper would: images and all ground truth, on the CPU."""
    view = view_at(batch, resolution, max_size)
    for item, viewed in zip(batch, view, strict=True):
        height, width = item["image"].shape[-2:]
        resized = resized_shape(height, width, resolution, max_size)
        transform = ResizeTransform(height, width, *resized)
        image = transform.apply_image(item["image"].permute(1, 2, 0).numpy())
        viewed["image"] = torch.as_tensor(image.transpose(2, 0, 1).copy()).to(device)
        scale_ground_truth(viewed)
        viewed["source_size"] = viewed["image"].shape[-2:]
    return view


def scale_ground_truth(item: dict) -> None:
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


# Memory ------------------------------------------------------------------------------------------


def compare_memory(cfg: CfgNode, steps: int) -> TimedPair:
    """
    Peak memory of a mutual training, against Detectron2's of the full network of plain layers: on a
    GPU what tensors take there, else a process's resident memory. The figures are MiB.
    """
    peaks = []
    for train in (_train_mutual, _train_plain):
        # A process each: what one has taken, another does not give back.
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_report_peak, args=(train, cfg, steps, sender))
        process.start()
        sender.close()
        peaks.append(receiver.recv())
        process.join()
    return TimedPair.of("peak memory, against Detectron2's of the full network", [tuple(peaks)])


def _report_peak(train: Callable[[CfgNode, int], None], cfg: CfgNode, steps: int, sender) -> None:
    import mutualnet_det  # noqa: F401  (registers in the new process)

    seed_all_rng(0)
    train(cfg, steps)
    sender.send(process_peak_memory(torch.device(cfg.MODEL.DEVICE)))


def _train_mutual(cfg: CfgNode, steps: int) -> None:
    trainer = MutualTrainer(cfg)
    with EventStorage(0) as trainer.storage:
        trainer.prepare(0)
        for trainer.iter in range(steps):
            trainer.run_step()


def _train_plain(cfg: CfgNode, steps: int) -> None:
    network = laid_out(sliced(build_network(cfg)), training_dtype(cfg))
    trainer = _plain_trainer(cfg, network, build_training_loader(cfg, 0, 0))
    with EventStorage(0):
        for trainer.iter in range(steps):
            trainer.run_step()
