"""
The scaling of training with processes: a step's cost here, and what a model says of more GPUs.

The model: a step of P processes takes the step of one, with as many images per process, and the
reductions, none of which hides behind computation. An all-reduce of b bytes goes through the GPUs
of each machine and then through the machines; on each of the two levels, of n participants with
links of latency a and bandwidth B, it takes the shorter of

    ring: 2 (n - 1) a + 2 (n - 1) / n * b / B        (Patarasuk & Yuan, 2009)
    tree: 2 ceil(log2 n) (a + b / B)
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import launch
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from tabulate import tabulate
from torch import Tensor

from ...data.check import check_datasets
from ...engine.processes import limit_threads, prepare_launch, share_threads
from ...engine.sampling import build_sampler
from ...engine.trainer import MutualTrainer
from ...modeling.build import build_network
from ...runtime.device import device_of, wait_for
from ...slimmable import SlimmableBatchNorm2d

# Steps before the ones that count.
WARMUP_STEPS = 2


# The model ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Link:
    """A connection: seconds that a message takes however short it is, and bytes per second."""

    latency: float
    bandwidth: float


@dataclass(frozen=True)
class Cluster:
    """
    Machines alike.

    Attributes:
        gpus: of each machine.
        local: between the GPUs of a machine.
        network: between machines, which the GPUs of one share.
        overhead: seconds to start a reduction.
    """

    machines: int
    gpus: int
    local: Link
    network: Link
    overhead: float

    def all_reduce(self, num_bytes: float) -> float:
        """Seconds that all take for the sum of so many bytes of each."""
        if self.machines * self.gpus == 1:
            return 0.0
        inside = _level(num_bytes, self.gpus, self.local)
        return self.overhead + inside + _level(num_bytes, self.machines, self.network)


def _level(num_bytes: float, count: int, link: Link) -> float:
    if count == 1:
        return 0.0
    ring = 2 * (count - 1) * (link.latency + num_bytes / count / link.bandwidth)
    tree = 2 * math.ceil(math.log2(count)) * (link.latency + num_bytes / link.bandwidth)
    return min(ring, tree)


@dataclass(frozen=True)
class Messages:
    """
    The sizes of what is reduced in a step, in bytes.

    Attributes:
        gradients: in one reduction.
        statistics: of each reduction that a norm makes, forward or backward.
    """

    gradients: int
    statistics: tuple[int, ...]

    @classmethod
    def of(cls, cfg: CfgNode) -> Messages:
        """Count a config's, with every norm at full width, which is the most there can be."""
        model = build_network(cfg)
        trained = [p for p in model.parameters() if p.requires_grad]
        norms = [m for m in model.modules() if isinstance(m, SlimmableBatchNorm2d)]
        if cfg.MUTUALNET.STATISTICS == "frozen" or not cfg.MUTUALNET.SYNC_STATISTICS:
            norms = []
        passes = len(build_sampler(cfg, 0)(0))
        # Forward: sums of values and squares, and the count, in float64; backward: two in float32.
        each = [size for m in norms for size in (8 * (2 * m.num_features + 1), 8 * m.num_features)]
        return cls(sum(p.numel() * p.element_size() for p in trained), tuple(each * passes))


@dataclass(frozen=True)
class StepCost:
    """Seconds of a step of so many processes, and of its reductions."""

    processes: int
    step: float
    gradients: float
    statistics: float
    num_statistics: int


def predict(step: float, messages: Messages, cluster: Cluster) -> StepCost:
    """
    Predict what a step takes on a cluster.

    Args:
        step: seconds of one process without others, on as many images as each has.
    """
    gradients = cluster.all_reduce(messages.gradients)
    statistics = sum(map(cluster.all_reduce, messages.statistics))
    processes = cluster.machines * cluster.gpus
    total = step + gradients + statistics
    return StepCost(processes, total, gradients, statistics, len(messages.statistics))


# Measuring ---------------------------------------------------------------------------------------


def measure(cfg: CfgNode, processes: int, steps: int) -> StepCost:
    """
    Train for some steps in so many processes on this machine; medians of the first one's.

    Args:
        cfg: with ``SOLVER.IMS_PER_BATCH`` for one process: each has as many images.

    Time in a reduction includes waiting for the others.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.IMS_PER_BATCH *= processes
    cfg.freeze()
    prepare_launch(cfg)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cost.json"
        arguments = (cfg, steps, str(path), share_threads(processes))
        launch(_measure, processes, dist_url="auto", args=arguments)
        return StepCost(**json.loads(path.read_text()))


def _measure(cfg: CfgNode, steps: int, path: str, threads: int) -> None:
    limit_threads(threads)
    seed_all_rng(0)
    check_datasets(cfg)
    trainer = MutualTrainer(cfg)
    trainer.prepare(0)
    device = device_of(trainer.model)
    gradient_size = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    costs = []
    with EventStorage(0) as trainer.storage:
        for trainer.iter in range(WARMUP_STEPS + 2 * steps):
            # Looking at each reduction makes a GPU wait: steps are timed without it.
            with _Reductions(trainer.iter >= WARMUP_STEPS + steps, device) as reductions:
                start = time.perf_counter()
                trainer.run_step()
                wait_for(device)
                costs.append((time.perf_counter() - start, reductions.times(gradient_size)))
    plain = [step for step, _ in costs[WARMUP_STEPS : WARMUP_STEPS + steps]]
    reduced = [times for _, times in costs[WARMUP_STEPS + steps :]]
    cost = StepCost(
        comm.get_world_size(),
        _median(plain),
        _median([gradients for gradients, _, _ in reduced]),
        _median([statistics for _, statistics, _ in reduced]),
        reduced[-1][2],
    )
    if comm.is_main_process():
        Path(path).write_text(json.dumps(asdict(cost)))
    comm.synchronize()
    if dist.is_initialized():
        dist.destroy_process_group()


class _Reductions:
    """Times the reductions inside, if it is told to."""

    def __init__(self, watches: bool, device: torch.device) -> None:
        self._watches = watches
        self._device = device
        self._reductions: list[tuple[int, float]] = []

    def __enter__(self) -> _Reductions:
        self._all_reduce = dist.all_reduce
        if self._watches:
            dist.all_reduce = self._timed
        return self

    def __exit__(self, *_: object) -> None:
        dist.all_reduce = self._all_reduce

    def _timed(self, tensor: Tensor, *args, **kwargs) -> object:
        wait_for(self._device)
        start = time.perf_counter()
        result = self._all_reduce(tensor, *args, **kwargs)
        wait_for(self._device)
        self._reductions.append((tensor.numel(), time.perf_counter() - start))
        return result

    def times(self, gradient_size: int) -> tuple[float, float, int]:
        """Seconds of the gradients' reduction, seconds of the norms' and how many these are."""
        if not self._reductions:
            return 0.0, 0.0, 0
        *statistics, _facts, (size, gradients) = self._reductions
        assert size == gradient_size
        return gradients, sum(seconds for _, seconds in statistics), len(statistics)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def scaling_table(costs: Sequence[StepCost], base: float) -> str:
    """
    A table of step costs.

    Args:
        base: seconds of the step of one process; its share of each row's step is the efficiency.
    """
    rows = [
        {
            "processes": cost.processes,
            "step, ms": 1000 * cost.step,
            "gradients, ms": 1000 * cost.gradients,
            "statistics, ms": 1000 * cost.statistics,
            "reductions of statistics": cost.num_statistics if cost.processes > 1 else 0,
            "efficiency": f"{base / cost.step:.0%}",
        }
        for cost in costs
    ]
    return tabulate(rows, headers="keys", floatfmt=".1f")
