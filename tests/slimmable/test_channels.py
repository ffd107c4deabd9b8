"""The channel rule."""

import math

import pytest
from torchvision.models._utils import _make_divisible

from mutualnet_det.slimmable import Channels, channels, round_channels

WIDTHS = [round(0.25 + 0.05 * step, 2) for step in range(28)]  # 0.25 to 1.6


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1, 8),  # at least 8
        (8, 8),
        (11.9, 16),  # nearest is 8, which is below 0.9 times 11.9
        (8.8, 8),  # 8 is above 0.9 times 8.8
        (12, 16),  # a tie goes up
        (20, 24),
        (22.4, 24),
        (163.99999999999997, 168),  # 960 * 1.025 / 6: the tie at 164 in exact arithmetic
        (35.99, 40),  # 32 is below 0.9 times 35.99
        (35.5, 32),  # nearest, and above 0.9 times 35.5
        (1280, 1280),
    ],
)
def test_rule(value, rounded):
    assert round_channels(value) == rounded


def test_rule_is_make_divisible():
    for tenth in range(1, 20000):
        assert round_channels(tenth / 10) == _make_divisible(tenth / 10, 8)


@pytest.mark.parametrize("width", WIDTHS)
def test_expanded_dimension_is_six_times_a_rounded_number(width):
    assert Channels(96 * 6, ratio=6).at(width) == 6 * round_channels(96 * width)


@pytest.mark.parametrize("width", WIDTHS)
def test_bottleneck_dimension_is_a_quarter_of_a_rounded_number(width):
    assert Channels(64, ratio=0.25).at(width) == round_channels(256 * width) / 4


@pytest.mark.parametrize("width", WIDTHS)
def test_flattened_map_has_whole_channels(width):
    assert Channels(256 * 49, ratio=49).at(width) == 49 * Channels(256).at(width)


def test_ratio_does_not_move_a_tie():
    assert Channels(160 * 6, ratio=6).at(1.025) == 6 * Channels(160).at(1.025) == 6 * 168


def test_full_width_has_the_base_count():
    for base, ratio in ((16, 1), (24, 1), (192, 6), (64, 0.25), (12544, 49)):
        assert Channels(base, ratio).at(1.0) == base


@pytest.mark.parametrize(
    "dim, divisor",
    [
        (Channels(20), 8),
        (Channels(96, ratio=6), 48),
        (Channels(64, ratio=0.25), 2),
        (Channels.fixed(12), 12),
    ],
)
def test_divisor(dim, divisor):
    assert math.gcd(*(dim.at(step / 100) for step in range(10, 200))) == dim.divisor == divisor


def test_fixed_dimension_never_slims():
    assert {Channels.fixed(3).at(width) for width in WIDTHS} == {3}


def test_equal_dimensions_compare_equal():
    assert Channels(32) == Channels(32)
    assert Channels(32) != Channels(32, ratio=6)
    assert Channels(32) != Channels.fixed(32)


def test_random_widths_do_not_pile_up():
    for width in range(10_000):
        Channels(32).at(0.25 + width / 20_000)
    assert channels._count.cache_info().currsize < 5_000
