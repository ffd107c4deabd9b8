"""Random streams: a function of purpose, seed and keys, and of every one of them."""

from itertools import product

import numpy as np

from mutualnet_det.seeding import stream, stream_seed


def test_every_part_makes_another_stream():
    keys = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (1, 0, 0), (2**40,)]
    seeds = [stream_seed(*each[:2], *each[2]) for each in product(("a", "b"), (0, 1, 2**31), keys)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_the_same_everywhere():
    # Written down: a change would make every resumed training another one.
    assert stream_seed("images", 0, 1) == EXPECTED
    assert stream("images", 0, 1).integers(100) == np.random.default_rng(EXPECTED).integers(100)


EXPECTED = 2680232598182479667
