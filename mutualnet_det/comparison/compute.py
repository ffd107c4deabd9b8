"""
What a training step costs, counted: the same on every machine, whatever else runs there.

Seconds would depend on the load and on how well small networks use the machine; they are measured
and reported beside it, but schedules are not made of them.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from detectron2.config import CfgNode

from ..data.loader import training_records
from ..engine.trainer import build_sampler
from ..evaluation.cost import CostCounter, padded_sizes
from ..modeling.build import build_network
from ..slimmable import at_width

# A backward computes two products for each of the forward's: with the inputs, with the weights.
FORWARD_AND_BACKWARD = 3
# Iterations whose operating points stand for all, and steps of width they are counted in: enough
# for 1 %.
ITERATIONS = 1000
WIDTH_STEPS = 8


class ComputeCounter:
    """Counts training steps; networks and data that it has met are not counted again."""

    def __init__(self) -> None:
        self._costs: dict[tuple, float] = {}
        self._sizes: dict[str, list[tuple[int, int]]] = {}

    def step_gflops(self, cfg: CfgNode) -> float:
        """
        The mean GFLOPs (1e9 multiply-adds) of one iteration of ``cfg``: forward and backward of all
        its passes on a batch, with as many proposals as the heads sample, of which as many have a
        mask as may be foreground.

        The seed does not count: it is that of the sampler with seed 0.
        """
        low, high = cfg.MUTUALNET.WIDTH_RANGE
        sampler = build_sampler(cfg, seed=0)
        total = 0.0
        for iteration in range(ITERATIONS):
            for training_pass in sampler(iteration):
                width, resolution = training_pass.point
                step = round((width - low) / (high - low) * WIDTH_STEPS) if high > low else 0
                snapped = low + (high - low) * step / WIDTH_STEPS
                total += self._pass_gflops(cfg, round(snapped, 6), resolution)
        return FORWARD_AND_BACKWARD * cfg.SOLVER.IMS_PER_BATCH * total / ITERATIONS

    def _pass_gflops(self, cfg: CfgNode, width: float, resolution: int) -> float:
        """The forward of one image."""
        network = _network_key(cfg)
        key = network, width, resolution
        if key not in self._costs:
            self._count(cfg, network, width)
        return self._costs[key]

    def _count(self, cfg: CfgNode, network: str, width: float) -> None:
        cpu = cfg.clone()
        cpu.defrost()
        cpu.MODEL.DEVICE = "cpu"
        with torch.random.fork_rng(devices=[]):
            model = build_network(cpu).eval()
        with at_width(model, width):
            counter = CostCounter(model)
        heads = cfg.MODEL.ROI_HEADS
        foreground = heads.BATCH_SIZE_PER_IMAGE * heads.POSITIVE_FRACTION
        for resolution in cfg.MUTUALNET.RESOLUTIONS:
            sizes = padded_sizes(
                self._image_sizes(cfg), resolution, cfg.INPUT.MAX_SIZE_TRAIN, model.backbone
            )
            cost = counter.count(sizes, heads.BATCH_SIZE_PER_IMAGE)
            self._costs[network, width, resolution] = cost.total(foreground)

    def _image_sizes(self, cfg: CfgNode) -> list[tuple[int, int]]:
        key = _key(cfg.DATASETS)
        if key not in self._sizes:
            self._sizes[key] = [(r["height"], r["width"]) for r in training_records(cfg)]
        return self._sizes[key]


def _network_key(cfg: CfgNode) -> str:
    """All that the cost of a pass depends on, beside its operating point."""
    node = cfg.MUTUALNET
    sizes = (node.SCOPE, node.WIDTH_RANGE, node.RESOLUTIONS, cfg.INPUT.MAX_SIZE_TRAIN)
    return _key([cfg.MODEL, cfg.DATASETS, *sizes])


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
