"""What an exported operating point takes against the slimmable model at that point."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from detectron2.structures import Instances
from torch import Tensor

from ..runtime.export import FORMATS, dataset_images
from ..runtime.export.images import network_input
from ..runtime.export.plain import plain_network, run
from ..runtime.pretrained import Pretrained
from ..slimmable import OperatingPoint
from .comparison import Comparison, compare


def compare_exports(
    found: Pretrained, points: Sequence[OperatingPoint], num_images: int, rounds: int
) -> list[Comparison]:
    """
    Every format against the slimmable model, at every point: one resized image to detections at the
    network's scale, on so many images of ``DATASETS.TEST`` in turn.

    Args:
        found: a model on the CPU.
    """
    comparisons = []
    files = dataset_images(found.cfg, num_images)
    for point in points:
        plain = plain_network(found, point)
        images = [network_input(found.cfg, file, point.resolution)[0] for file in files]
        for name, form in FORMATS.items():
            with tempfile.TemporaryDirectory() as folder:
                form.write(plain, found.cfg, point, Path(folder))
                exported = _in_turn(form.load(Path(folder)), images)
            for _ in range(2):  # TorchScript is compiled by its first runs
                exported()
            source = _in_turn(_source(found, point), images)
            label = f"{point} as {name} against slimmable"
            comparisons.append(compare(label, exported, source, rounds, torch.device("cpu")))
    return comparisons


def _source(found: Pretrained, point: OperatingPoint) -> Callable[[list[Tensor]], list[Instances]]:
    def detect(images: list[Tensor]) -> list[Instances]:
        with found.calibrations.at(point, stale=True):
            return run(found.model, images)

    return detect


def _in_turn(detect: Callable[[list[Tensor]], object], images: Sequence[Tensor]):
    """What gives ``detect`` one of the images at every call."""
    turns = itertools.cycle(images)
    return lambda: detect([next(turns)])
