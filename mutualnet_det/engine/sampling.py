"""Operating points that an iteration trains: a function of (seed, iteration)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from detectron2.config import CfgNode

from ..config import ALONE, full_point, grid_points
from ..seeding import stream
from ..slimmable import OperatingPoint

FULL, NARROWEST, RANDOM = "full", "narrowest", "random"


class TrainingPass(NamedTuple):
    """A pass of an iteration: its kind ("full", "narrowest", "random") and operating point."""

    kind: str
    point: OperatingPoint

    def __str__(self) -> str:
        return f"operating point {self.point} ({self.kind})"


class SandwichSampler:
    """
    The sandwich rule (US-Net, arXiv 1903.05134): the full network, the narrowest and N of random
    width in each iteration.

    Args:
        method: at which resolutions. "mutual": the full network at the largest, each of the others
            at one of its own (arXiv 1909.12978, algorithm 1). "us_net": all at the largest.
            "us_net_multi_scale": all at one drawn per iteration.
        width_range: smallest and largest width; random widths are uniform between them.
        resolutions: short sides in pixels, largest first.
        num_random: N.
        seed: of the run.
        widths: draw random widths from this list instead of the range.
    """

    def __init__(
        self,
        method: str,
        width_range: tuple[float, float],
        resolutions: Sequence[int],
        num_random: int,
        seed: int,
        widths: Sequence[float] = (),
    ) -> None:
        self._method = method
        self._range = width_range
        self._resolutions = list(resolutions)
        self._num_random = num_random
        self._seed = seed
        self._widths = list(widths)

    def __call__(self, iteration: int) -> list[TrainingPass]:
        rng = stream("operating points", self._seed, iteration)
        smallest, largest = self._range
        shared = self._resolutions[0]
        if self._method == "us_net_multi_scale":
            shared = int(rng.choice(self._resolutions))
        passes = [TrainingPass(FULL, OperatingPoint(largest, shared))]
        kinds = [NARROWEST] + [RANDOM] * self._num_random
        for kind in kinds:
            if kind == NARROWEST:
                width = smallest
            elif self._widths:
                width = float(rng.choice(self._widths))
            else:
                width = float(rng.uniform(smallest, largest))
            resolution = shared
            if self._method == "mutual":
                resolution = int(rng.choice(self._resolutions))
            passes.append(TrainingPass(kind, OperatingPoint(width, resolution)))
        return passes


class IndependentSampler:
    """
    The full network alone: training without sub-networks.

    Args:
        width, resolution: of the full network.
        drawn: short sides in pixels, one of which is drawn per iteration in place of
            ``resolution``: the one that "us_net_multi_scale" draws with this seed.
        seed: of the run.
    """

    def __init__(
        self, width: float, resolution: int, drawn: Sequence[int] = (), seed: int = 0
    ) -> None:
        self._width = width
        self._resolution = resolution
        self._drawn = list(drawn)
        self._seed = seed

    def __call__(self, iteration: int) -> list[TrainingPass]:
        resolution = self._resolution
        if self._drawn:
            rng = stream("operating points", self._seed, iteration)
            resolution = int(rng.choice(self._drawn))
        return [TrainingPass(FULL, OperatingPoint(self._width, resolution))]


def build_sampler(cfg: CfgNode, seed: int) -> SandwichSampler | IndependentSampler:
    """Build the sampler of operating points that ``MUTUALNET.METHOD`` asks for."""
    node = cfg.MUTUALNET
    if node.METHOD in ALONE:
        drawn = node.RESOLUTIONS if node.METHOD == "independent_multi_scale" else ()
        return IndependentSampler(*full_point(cfg), drawn, seed)
    widths = ()
    if node.STATISTICS == "frozen":
        widths = sorted({point.width for point in grid_points(cfg)})
    return SandwichSampler(
        node.METHOD, node.WIDTH_RANGE, node.RESOLUTIONS, node.NUM_RANDOM, seed, widths
    )
