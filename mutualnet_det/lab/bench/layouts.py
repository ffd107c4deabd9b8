"""How a network's weights lie in memory, and what it computes in: what each costs on a device."""

from __future__ import annotations

from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng

from ...config import full_point
from ...data.loader import build_training_loader
from ...engine.trainer import MutualTrainer
from ...modeling.build import build_network
from ...modeling.memory_format import memory_format
from ...runtime.device import device_of
from .layers import square_image
from .pairs import TimedPair, time_pair
from .training import WARM_UP, Steps, overridden

FORMATS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}
OFF = ("SOLVER.AMP.ENABLED", False)
HALF = ("SOLVER.AMP.ENABLED", True, "MUTUALNET.AMP_DTYPE", "bfloat16")


def compare_layouts(cfg: CfgNode, rounds: int) -> list[TimedPair]:
    """
    Time inference and training with weights channels-last against contiguous ones, and training in
    bfloat16 against float32, each in the layout that the project chooses for it.
    """
    return [_inference(cfg, rounds), *_training(cfg, rounds)]


def _inference(cfg: CfgNode, rounds: int) -> TimedPair:
    images = square_image(cfg)
    runs = []
    for its_format in FORMATS.values():
        seed_all_rng(0)
        network = build_network(cfg).eval().to(memory_format=its_format)
        runs.append(partial(network, images))
    last, contiguous = runs
    name = f"inference at {full_point(cfg)} in float32, channels-last against contiguous"
    with torch.no_grad():
        return time_pair(name, last, contiguous, rounds, device_of(network))


def _training(cfg: CfgNode, rounds: int) -> list[TimedPair]:
    steps, chosen = {}, {}
    for dtype, options in (("float32", OFF), ("bfloat16", HALF)):
        for layout, its_format in FORMATS.items():
            trainer = MutualTrainer(overridden(cfg, *options))
            model = trainer.model
            if memory_format(model, device_of(model), getattr(torch, dtype)) == its_format:
                chosen[dtype] = (dtype, layout)
            model.to(memory_format=its_format)
            steps[dtype, layout] = Steps(trainer)
    batches = build_training_loader(cfg, trainer.seed, 0)
    times: dict[tuple[str, str], list[float]] = {way: [] for way in steps}
    for iteration in range(WARM_UP + rounds):
        batch = next(batches)
        for way, each in steps.items():
            milliseconds = each.take(batch, iteration)
            if iteration >= WARM_UP:
                times[way].append(milliseconds)
    compared = {
        f"training in {dtype}, channels-last against contiguous": [
            (dtype, "channels-last"),
            (dtype, "contiguous"),
        ]
        for dtype in chosen
    }
    compared["training in bfloat16, against float32"] = [chosen["bfloat16"], chosen["float32"]]
    return [
        TimedPair.of(name, list(zip(*(times[way] for way in ways), strict=True)))
        for name, ways in compared.items()
    ]
