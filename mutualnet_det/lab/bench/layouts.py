"""How a network's weights lie in memory, and what it computes in: what each costs on a device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng

from ...config import full_point
from ...data.loader import build_training_loader
from ...engine.trainer import MutualTrainer
from ...modeling.build import build_network
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
    runs: dict[str, Callable[[], object]] = {}
    images = square_image(cfg)
    for name, memory_format in FORMATS.items():
        seed_all_rng(0)
        network = build_network(cfg).eval().to(memory_format=memory_format)
        runs[name] = lambda network=network: network(images)
    with torch.no_grad():
        return time_pair(
            f"inference at {full_point(cfg)} in float32, channels-last against contiguous",
            *runs.values(),
            rounds,
            device_of(network),
        )


def _training(cfg: CfgNode, rounds: int) -> list[TimedPair]:
    steps = {}
    for dtype, options in (("float32", OFF), ("bfloat16", HALF)):
        for layout in ("chosen", *FORMATS):
            trainer = MutualTrainer(overridden(cfg, *options))
            if layout in FORMATS:
                trainer.model.to(memory_format=FORMATS[layout])
            steps[dtype, layout] = Steps(trainer)
    batches = build_training_loader(cfg, trainer.seed, 0)
    times: dict[tuple[str, str], list[float]] = {way: [] for way in steps}
    for iteration in range(WARM_UP + rounds):
        batch = next(batches)
        for way, each in steps.items():
            milliseconds = each.take(batch, iteration)
            if iteration >= WARM_UP:
                times[way].append(milliseconds)

    def pair(name: str, mine: tuple[str, str], other: tuple[str, str]) -> TimedPair:
        return TimedPair.of(name, list(zip(times[mine], times[other], strict=True)))

    by_layout = [
        pair(f"training in {dtype}, channels-last against contiguous", *ways)
        for dtype in ("float32", "bfloat16")
        for ways in [[(dtype, layout) for layout in FORMATS]]
    ]
    chosen = [(dtype, "chosen") for dtype in ("bfloat16", "float32")]
    return [*by_layout, pair("training in bfloat16, against float32", *chosen)]
