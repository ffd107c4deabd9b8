"""
The cost of a training step, counted: the same on every machine, whatever else runs there.

Seconds would depend on the load and on how well small networks use the machine; they are measured
and reported beside it, but schedules are not made of them.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import torch
from detectron2.config import CfgNode

from ...config import ROI_TERMS, terms_present
from ...data.records import training_records
from ...engine.sampling import FULL, build_sampler
from ...evaluation.classification_cost import classification_costs
from ...evaluation.cost import Cost, CostCounter, padded_sizes
from ...modeling.build import build_network
from ...modeling.classifier import Classifier
from ...slimmable import OperatingPoint, at_width

# A backward computes two products for each of the forward's: with the inputs, with the weights.
FORWARD_AND_BACKWARD = 3
# Iterations whose operating points stand for all, and steps of width they are counted in: enough
# for 1 %.
ITERATIONS = 1000
WIDTH_STEPS = 8


class ComputeCounter:
    """Counts training steps; networks and data that it has met are not counted again."""

    def __init__(self) -> None:
        self._costs: dict[tuple[str, float], dict[int, Cost]] = {}
        self._sizes: dict[str, list[tuple[int, int]]] = {}

    def step_gflops(self, cfg: CfgNode) -> float:
        """
        The mean GFLOPs (1e9 multiply-adds) of one iteration of ``cfg``: forward and backward of all
        its passes on a batch; of a detector with as many proposals as the heads sample, of which as
        many have a mask as may be foreground. A sub-network that is taught on proposals of its own
        adds the forward of the full network's heads on them.

        The seed does not count: it is that of the sampler with seed 0.
        """
        low, high = cfg.MUTUALNET.WIDTH_RANGE
        sampler = build_sampler(cfg, seed=0)
        passes: Counter[tuple[float, int]] = Counter()
        num_students = 0
        for iteration in range(ITERATIONS):
            for kind, (width, resolution) in sampler(iteration):
                step = round((width - low) / (high - low) * WIDTH_STEPS) if high > low else 0
                passes[round(low + (high - low) * step / WIDTH_STEPS, 6), resolution] += 1
                num_students += kind != FULL
        network = _network_key(cfg)
        foreground = (
            cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE * cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION
        )

        def cost_of(width: float, resolution: int) -> Cost:
            if (network, width) not in self._costs:
                self._costs[network, width] = self._count(cfg, width)
            return self._costs[network, width][resolution]

        total = FORWARD_AND_BACKWARD * sum(
            count * cost_of(*point).total(foreground) for point, count in passes.items()
        )
        if num_students and cfg.MUTUALNET.PROPOSALS == "own" and _is_taught_on_proposals(cfg):
            full = cost_of(high, cfg.MUTUALNET.RESOLUTIONS[0])
            total += num_students * full.of_proposals(foreground)
        return cfg.SOLVER.IMS_PER_BATCH * total / ITERATIONS

    def _count(self, cfg: CfgNode, width: float) -> dict[int, Cost]:
        """The forward of one image, by resolution."""
        cpu = cfg.clone()
        cpu.defrost()
        cpu.MODEL.DEVICE = "cpu"
        with torch.random.fork_rng(devices=[]):
            model = build_network(cpu).eval()
        backbone = model.get_submodule("backbone")
        if isinstance(model, Classifier):
            points = [OperatingPoint(width, resolution) for resolution in cfg.MUTUALNET.RESOLUTIONS]
            costs = classification_costs(model.backbone, points)
            return {point.resolution: cost for point, cost in costs.items()}
        with at_width(model, width):
            counter = CostCounter(model)
        sizes = {
            resolution: padded_sizes(
                self._image_sizes(cfg), resolution, cfg.INPUT.MAX_SIZE_TRAIN, backbone
            )
            for resolution in cfg.MUTUALNET.RESOLUTIONS
        }
        num_proposals = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
        return {resolution: counter.count(of, num_proposals) for resolution, of in sizes.items()}

    def _image_sizes(self, cfg: CfgNode) -> list[tuple[int, int]]:
        key = _key(cfg.DATASETS)
        if key not in self._sizes:
            self._sizes[key] = [(r["height"], r["width"]) for r in training_records(cfg)]
        return self._sizes[key]


def _is_taught_on_proposals(cfg: CfgNode) -> bool:
    terms = terms_present(ROI_TERMS, mask_on=cfg.MODEL.MASK_ON, keypoint_on=cfg.MODEL.KEYPOINT_ON)
    return any(cfg.MUTUALNET.LOSS_WEIGHTS[term] > 0 for term in terms)


def _network_key(cfg: CfgNode) -> str:
    """A key of all that the cost of a pass depends on, beside its operating point."""
    node = cfg.MUTUALNET
    sizes = (node.SCOPE, node.WIDTH_RANGE, node.RESOLUTIONS, cfg.INPUT.MAX_SIZE_TRAIN)
    return _key([cfg.MODEL, cfg.DATASETS, *sizes])


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
