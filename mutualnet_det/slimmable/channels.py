"""The channel rule: how many channels a dimension has at a width. Nothing else computes one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

DIVISOR = 8


def round_channels(value: float) -> int:
    """
    The multiple of 8 nearest to ``value``, at least 8; raised by 8 if that is below 0.9 ``value``.

    The rule of the MobileNetV2 reference code, which slimmable networks (arXiv 1812.08928) and
    MutualNet (arXiv 1909.12978) share.

    >>> round_channels(22.4), round_channels(3), round_channels(12)
    (24, 8, 16)
    """
    # 960 * 1.025 / 6 is 163.99999999999997: rounding first keeps the tie of exact arithmetic.
    value = round(value, 6)
    rounded = max(DIVISOR, int(value + DIVISOR / 2) // DIVISOR * DIVISOR)
    return rounded + DIVISOR if rounded < 0.9 * value else rounded


# Not all of them: every random width is a new one.
@lru_cache(maxsize=4096)
def _count(base: int, ratio: float, width: float) -> int:
    return int(round_channels(base * width / ratio) * ratio)


@dataclass(frozen=True)
class Channels:
    """
    A channel dimension of a slimmable network.

    Args:
        base: channels at width 1.
        ratio: the dimension is ``ratio`` times a rounded number: 6 for MobileNetV2's expansion,
            0.25 inside ResNet's bottleneck, 49 for a linear layer behind a 7x7 map.
        slims: False for a dimension that has ``base`` channels at every width.

    >>> Channels(32).at(0.7), Channels(192, ratio=6).at(0.7), Channels.fixed(3).at(0.25)
    (24, 144, 3)
    """

    base: int
    ratio: float = 1
    slims: bool = True

    @classmethod
    def fixed(cls, count: int) -> Channels:
        """A dimension that never slims, such as an image's channels or the classes."""
        return cls(count, slims=False)

    def at(self, width: float) -> int:
        """The number of channels at ``width``."""
        return _count(self.base, self.ratio, width) if self.slims else self.base

    @property
    def divisor(self) -> int:
        """The divisor of the count at every width."""
        return int(DIVISOR * self.ratio) if self.slims else self.base
