"""The order of the training images: a function of (seed, iteration)."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from detectron2.data.samplers import RepeatFactorTrainingSampler

from mutualnet_det.config import ConfigError
from mutualnet_det.data.sampler import TrainingBatchSampler, check_share, repeat_factors


def batches(count, is_wide=(True,) * 12, batch_size=4, seed=1, **kwargs):
    return list(islice(TrainingBatchSampler(is_wide, batch_size, seed, **kwargs), count))


def images(drawn):
    return [[index for index, _ in batch] for batch in drawn]


MIXED = [True] * 7 + [False] * 5


@pytest.mark.parametrize("is_wide", [[True] * 12, MIXED, [True] * 11 + [False]])
def test_every_image_once_per_epoch_where_it_divides(is_wide):
    drawn = images(batches(9, is_wide))
    for epoch in (drawn[:3], drawn[3:6], drawn[6:]):
        assert sorted(sum(epoch, [])) == list(range(12))
    assert sorted(drawn[:3]) != sorted(drawn[3:6])


def test_same_batches_from_any_iteration_on():
    whole = batches(20, MIXED)
    for start in range(11):
        assert batches(20 - start, MIXED, start=start) == whole[start:]


def test_seed_changes_order_and_augmentation():
    first, second = batches(6, seed=1), batches(6, seed=2)
    assert images(first) != images(second)
    assert not {s for b in first for _, s in b} & {s for b in second for _, s in b}


def test_every_image_of_every_iteration_has_its_own_augmentation():
    seeds = [seed for batch in batches(100) for _, seed in batch]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_partition_the_batch(world_size):
    whole = batches(7, MIXED)
    shares = [batches(7, MIXED, rank=r, world_size=world_size) for r in range(world_size)]
    for number, batch in enumerate(whole):
        parts = [share[number] for share in shares]
        assert {len(part) for part in parts} == {4 // world_size}
        # Augmentations too: the same images are trained on whatever the number of processes.
        assert sorted(sum(parts, [])) == sorted(batch)


def test_batch_that_does_not_divide_over_the_processes():
    with pytest.raises(ConfigError, match="is 4; .* the 2 processes times 4 micro-batches"):
        check_share(4, 2, 4)
    with pytest.raises(ValueError, match="SOLVER.IMS_PER_BATCH is 4.*3 processes"):
        batches(1, rank=0, world_size=3)


@pytest.mark.parametrize("size", [1, 3])
def test_data_set_smaller_than_a_batch(size):
    for batch in images(batches(5, [True] * size, batch_size=4)):
        counts = Counter(batch)
        assert set(counts) == set(range(size))
        assert max(counts.values()) - min(counts.values()) <= 1


def test_images_of_one_shape_share_a_batch():
    is_wide = [True] * 24 + [False] * 16
    for batch in images(batches(30, is_wide, batch_size=8)):
        assert len({is_wide[index] for index in batch}) == 1
    # 22 and 18: 5 batches of 8, of which the two remainders (6 and 2) share one.
    is_wide = [True] * 22 + [False] * 18
    for epoch in range(5):
        drawn = images(batches(5, is_wide, batch_size=8, start=5 * epoch))
        assert sum(len({is_wide[i] for i in batch}) > 1 for batch in drawn) == 1


def test_no_image_is_left_out_for_good():
    # One portrait among 10: alone it fills no batch, and the remainder fills none either.
    is_wide = [True] * 9 + [False]
    counts = Counter(i for batch in images(batches(400, is_wide)) for i in batch)
    assert sum(counts.values()) == 1600
    # 8 of 10 images an epoch, 200 epochs: 160 each, with a standard deviation of 6.
    assert len(counts) == 10 and all(130 < count < 190 for count in counts.values())


def test_batches_of_both_shapes_are_mixed_over_the_epoch():
    is_wide = [True] * 40 + [False] * 40
    shapes = [is_wide[batch[0]] for batch in images(batches(20, is_wide))]
    assert shapes != sorted(shapes) and shapes != sorted(shapes, reverse=True)


# Rare classes -------------------------------------------------------------------------------------


def test_repeat_factors_are_detectron2s():
    rng = np.random.default_rng(0)
    classes = [
        set(rng.choice(6, rng.integers(0, 4), p=[0.5, 0.3, 0.1, 0.05, 0.03, 0.02]))
        for _ in range(200)
    ]
    records = [{"annotations": [{"category_id": c} for c in labels]} for labels in classes]
    expected = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, 0.3)
    factors = repeat_factors(classes, 0.3)
    np.testing.assert_allclose(factors, expected, rtol=1e-6)
    assert factors.max() > 1.5


REPEATS = np.array([1.0] * 8 + [2.3, 3.5, 1.7, 1.2])  # 16.7


def test_images_are_repeated_as_often_as_they_should_on_average():
    drawn = images(batches(4 * 500, MIXED, repeats=REPEATS))
    # An epoch has 4 batches of 4: 16 of 16.7 images, whichever they are.
    counts = Counter(index for batch in drawn for index in batch)
    for index, repeats in enumerate(REPEATS):
        assert counts[index] / 500 == pytest.approx(repeats * 16 / 16.7, abs=0.1), index
    for epoch in zip(*[iter(drawn)] * 4, strict=True):
        for index, count in Counter(sum(epoch, [])).items():
            assert count <= np.ceil(REPEATS[index])


def test_repeated_images_are_the_same_from_any_iteration_on():
    whole = batches(40, MIXED, repeats=REPEATS)
    for start in range(17):
        assert batches(40 - start, MIXED, repeats=REPEATS, start=start) == whole[start:]
    halves = [batches(40, MIXED, repeats=REPEATS, rank=r, world_size=2) for r in range(2)]
    for number, batch in enumerate(whole):
        assert sorted(halves[0][number] + halves[1][number]) == sorted(batch)
    # What is seen twice is augmented twice.
    seeds = [seed for batch in whole for _, seed in batch]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("seed", range(20))
def test_every_epoch_has_as_many_batches_whatever_the_repeats(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 40))
    repeats = 1 + rng.exponential(1.0, size)
    drawn = batches(30, [True] * size, batch_size=int(rng.integers(1, 9)), repeats=repeats)
    assert len({len(batch) for batch in drawn}) == 1
