"""Random streams as functions of a seed and what they are for, with no state to save."""

from __future__ import annotations

import numpy as np


def stream_seed(seed: int, *keys: int) -> int:
    """
    A 64-bit seed that depends on ``seed`` and on every key, such as an iteration and a rank.

    The same on every worker, machine and after a resume.
    """
    return int(np.random.SeedSequence([seed, *keys]).generate_state(1, np.uint64)[0])


def stream(seed: int, *keys: int) -> np.random.Generator:
    """A NumPy generator for :func:`stream_seed`."""
    return np.random.default_rng(stream_seed(seed, *keys))
