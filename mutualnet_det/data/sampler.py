"""The images that an iteration sees: a function of (seed, iteration)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    ) -> None:
        check_share(batch_size, world_size)
        self._is_wide = np.asarray(is_wide, dtype=bool)
        self._batch_size = batch_size
        self._seed = seed
        self._start = start
        self._share = slice(rank, None, world_size)
        # A data set smaller than a batch is repeated within it.
        self._repeats = -(-batch_size // len(self._is_wide))
        self._batches_per_epoch = len(self._is_wide) * self._repeats // batch_size

    def _epoch(self, epoch: int) -> np.ndarray:
        """The batches (B, batch_size) of an epoch, as indices of images."""
        rng = stream("images", self._seed, epoch)
        order = np.concatenate([rng.permutation(len(self._is_wide)) for _ in range(self._repeats)])
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
