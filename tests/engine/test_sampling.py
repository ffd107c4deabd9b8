"""Operating points of an iteration: the sandwich rule, as a function of (seed, iteration)."""

from collections import Counter

import numpy as np
import pytest

from mutualnet_det.engine.sampling import (
    FULL,
    NARROWEST,
    RANDOM,
    IndependentSampler,
    SandwichSampler,
    build_sampler,
)
from mutualnet_det.slimmable import OperatingPoint

RESOLUTIONS = (600, 480, 360, 240)
ITERATIONS = 2000


@pytest.fixture(scope="module")
def many():
    sampler = SandwichSampler("mutual", (0.25, 1.0), RESOLUTIONS, 2, seed=3)
    return [sampler(iteration) for iteration in range(ITERATIONS)]


def test_full_network_at_the_largest_resolution_comes_first(many):
    for passes in many:
        assert [p.kind for p in passes] == [FULL, NARROWEST, RANDOM, RANDOM]
        assert passes[0].point == OperatingPoint(1.0, 600)


def test_narrowest_and_random_widths(many):
    assert {passes[1].point.width for passes in many} == {0.25}
    widths = np.array([p.point.width for passes in many for p in passes[2:]])
    assert widths.min() >= 0.25 and widths.max() <= 1.0
    # Uniform: each tenth of the range holds a tenth, within 4 standard deviations.
    counts, _ = np.histogram(widths, bins=10, range=(0.25, 1.0))
    assert np.abs(counts - len(widths) / 10).max() < 4 * np.sqrt(len(widths) * 0.09)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_each_pass_draws_its_own_resolution(many, number):
    counts = Counter(passes[number].point.resolution for passes in many)
    assert set(counts) == set(RESOLUTIONS)
    for count in counts.values():
        assert abs(count - ITERATIONS / 4) < 4 * np.sqrt(ITERATIONS * 3 / 16)


def test_passes_of_an_iteration_are_independent(many):
    same = sum(passes[2].point.resolution == passes[3].point.resolution for passes in many)
    assert abs(same - ITERATIONS / 4) < 4 * np.sqrt(ITERATIONS * 3 / 16)
    assert all(passes[2].point.width != passes[3].point.width for passes in many)


def test_us_net_sees_the_largest_resolution_alone():
    sampler = SandwichSampler("us_net", (0.25, 1.0), RESOLUTIONS, 2, seed=3)
    for iteration in range(50):
        passes = sampler(iteration)
        assert [p.kind for p in passes] == [FULL, NARROWEST, RANDOM, RANDOM]
        assert {p.point.resolution for p in passes} == {600}


def test_us_net_multi_scale_shares_one_resolution():
    sampler = SandwichSampler("us_net_multi_scale", (0.25, 1.0), RESOLUTIONS, 2, seed=3)
    iterations = [sampler(iteration) for iteration in range(200)]
    assert all(len({p.point.resolution for p in passes}) == 1 for passes in iterations)
    counts = Counter(passes[0].point.resolution for passes in iterations)
    assert set(counts) == set(RESOLUTIONS) and min(counts.values()) > 25


def test_function_of_seed_and_iteration_alone(many):
    again = SandwichSampler("mutual", (0.25, 1.0), RESOLUTIONS, 2, seed=3)
    order = np.random.default_rng(0).permutation(100)
    assert [again(int(i)) for i in order] == [many[i] for i in order]
    other = SandwichSampler("mutual", (0.25, 1.0), RESOLUTIONS, 2, seed=4)
    assert [other(i) for i in range(10)] != many[:10]


@pytest.mark.parametrize("number", [0, 1, 5])
def test_number_of_random_networks(number):
    passes = SandwichSampler("mutual", (0.25, 1.0), RESOLUTIONS, number, seed=0)(0)
    assert [p.kind for p in passes] == [FULL, NARROWEST] + [RANDOM] * number


def test_widths_from_a_list():
    sampler = SandwichSampler(
        "mutual", (0.25, 1.0), RESOLUTIONS, 2, seed=0, widths=(0.25, 0.5, 1.0)
    )
    widths = Counter(p.point.width for i in range(300) for p in sampler(i) if p.kind == RANDOM)
    assert set(widths) == {0.25, 0.5, 1.0}
    assert min(widths.values()) > 150


def test_independent_network_has_one_pass():
    assert IndependentSampler(1.0, 600)(7) == [(FULL, OperatingPoint(1.0, 600))]


def test_built_as_the_config_says(tiny_cfg):
    tiny_cfg.MUTUALNET.NUM_RANDOM = 1
    assert len(build_sampler(tiny_cfg, 0)(0)) == 3
    tiny_cfg.MUTUALNET.GRID.WIDTHS = (0.25, 0.5, 1.0)
    tiny_cfg.MUTUALNET.STATISTICS = "frozen"
    sampler = build_sampler(tiny_cfg, 0)
    # Any other width would have no calibration.
    assert {sampler(i)[2].point.width for i in range(50)} == {0.25, 0.5, 1.0}
    tiny_cfg.MUTUALNET.METHOD = "independent"
    assert [p.kind for p in build_sampler(tiny_cfg, 0)(0)] == [FULL]


def test_independent_network_at_several_scales_draws_one_per_iteration():
    sampler = IndependentSampler(0.5, 600, RESOLUTIONS, seed=3)
    iterations = [sampler(iteration) for iteration in range(200)]
    assert all([p.kind for p in passes] == [FULL] for passes in iterations)
    assert {passes[0].point.width for passes in iterations} == {0.5}
    # As US-Net with the same seed: a comparison of the two shows the same images at the same scale.
    us_net = SandwichSampler("us_net_multi_scale", (0.25, 1.0), RESOLUTIONS, 2, seed=3)
    expected = [us_net(iteration)[0].point.resolution for iteration in range(200)]
    assert [passes[0].point.resolution for passes in iterations] == expected
    assert set(expected) == set(RESOLUTIONS)


def test_independent_networks_are_built_at_any_width_and_resolution(tiny_cfg):
    tiny_cfg.MUTUALNET.WIDTH_RANGE = (0.5, 0.5)
    tiny_cfg.MUTUALNET.RESOLUTIONS = (48, 32)
    tiny_cfg.MUTUALNET.METHOD = "independent"
    sampler = build_sampler(tiny_cfg, 0)
    assert {sampler(i)[0].point for i in range(20)} == {OperatingPoint(0.5, 48)}
    tiny_cfg.MUTUALNET.METHOD = "independent_multi_scale"
    sampler = build_sampler(tiny_cfg, 0)
    points = {sampler(i)[0].point for i in range(20)}
    assert points == {OperatingPoint(0.5, 48), OperatingPoint(0.5, 32)}
