"""The images that an iteration sees: a function of (seed, iteration)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from ..config import ConfigError
from ..seeding import stream, stream_seed


def check_share(batch_size: int, world_size: int, micro_batches: int = 1) -> None:
    """ConfigError if the processes, with their micro-batches, cannot share a batch evenly."""
    if batch_size % (world_size * micro_batches):
        parts = f"{world_size} processes"
        if micro_batches > 1:
            parts += f" times {micro_batches} micro-batches (MUTUALNET.MICRO_BATCHES)"
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {batch_size}; expected a multiple of the {parts}."
        )


def repeat_factors(classes: Sequence[Collection[int]], threshold: float) -> np.ndarray:
    """
    How often each image is to be seen in an epoch so that rare classes are seen more often (LVIS,
    arXiv 1908.03195, appendix B).

    A class on a fraction f of the images asks for max(1, sqrt(``threshold`` / f)) times; an image
    is seen as often as its rarest class asks for.

    Args:
        classes: on each image.

    Returns:
        (N,), at least 1 each.
    """
    counts = Counter(label for labels in classes for label in set(labels))
    asked = {c: max(1.0, math.sqrt(threshold * len(classes) / n)) for c, n in counts.items()}
    return np.array([max((asked[label] for label in labels), default=1.0) for labels in classes])


class TrainingBatchSampler(Sampler):
    """
    Endless batches of one rank, each epoch a new permutation.

    Images wider than high and the others go into separate batches, so that little is padded; what
    is left of both groups fills mixed batches. Where the data set is no multiple of a batch, other
    images, drawn at random, sit out each epoch.

    Args:
        is_wide: for each image, whether it is wider than high.
        batch_size: images per iteration over all ranks.
        seed: of the run.
        start: the iteration to begin with.
        rank, world_size: this process and how many there are; each takes its share of every batch.
        repeats: how often each image is seen in an epoch, on average; None: all as often.

    Yields:
        list[tuple[int, int]]: (index of the image, seed of its augmentation) for each image.
    """

    def __init__(
        self,
        is_wide: Sequence[bool],
        batch_size: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        repeats: np.ndarray | None = None,
    ) -> None:
        check_share(batch_size, world_size)
        self._is_wide = np.asarray(is_wide, dtype=bool)
        self._batch_size = batch_size
        self._seed = seed
        self._start = start
        self._share = slice(rank, None, world_size)
        # In parts of a power of 2, of which sums are exact in whatever order.
        self._repeats = None if repeats is None else np.round(repeats * 2**20) / 2**20
        length = len(self._is_wide) if self._repeats is None else math.floor(self._repeats.sum())
        # A data set smaller than a batch is repeated within it.
        self._rounds = -(-batch_size // length)
        self._batches_per_epoch = length * self._rounds // batch_size

    def _round(self, rng: np.random.Generator) -> np.ndarray:
        """Indices of images in random order, each as often as it is to be seen."""
        order = rng.permutation(len(self._is_wide))
        if self._repeats is None:
            return order
        # Systematic sampling: of a repeat of 2.3, 2 or 3 are taken. However they fall, their sum
        # is that of the repeats, so that every epoch has as many batches, and an iteration's epoch
        # is known without those before it.
        ends = np.floor(self._repeats[order].cumsum() + rng.uniform()).astype(int)
        return rng.permutation(np.repeat(order, np.diff(ends, prepend=0)))

    def _epoch(self, epoch: int) -> np.ndarray:
        """The batches (B, batch_size) of an epoch, as indices of images."""
        rng = stream("images", self._seed, epoch)
        order = np.concatenate([self._round(rng) for _ in range(self._rounds)])
        # Cut before grouping: cutting the mixed rest would always hit the smaller group.
        order = order[: self._batches_per_epoch * self._batch_size]
        full, rest = [], []
        for group in (order[self._is_wide[order]], order[~self._is_wide[order]]):
            cut = len(group) // self._batch_size * self._batch_size
            full.append(group[:cut])
            rest.append(group[cut:])
        return rng.permutation(np.concatenate(full + rest).reshape(-1, self._batch_size))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        iteration = self._start
        while True:
            epoch, first = divmod(iteration, self._batches_per_epoch)
            for batch in self._epoch(epoch)[first:]:
                pairs = [
                    (int(index), stream_seed("augmentation", self._seed, iteration, position))
                    for position, index in enumerate(batch)
                ]
                yield pairs[self._share]
                iteration += 1
