"""An operating point: one (width, resolution) pair."""

from __future__ import annotations

import re
from typing import NamedTuple

_PATTERN = re.compile(r"(\d+(?:\.\d+)?|\.\d+)x(\d+)")


class OperatingPoint(NamedTuple):
    """
    A width and a resolution.

    Attributes:
        width: active fraction of the channels.
        resolution: short side of the image, in pixels.

    >>> str(OperatingPoint(0.5, 360)), OperatingPoint.parse("0.50x360")
    ('0.50x360', OperatingPoint(width=0.5, resolution=360))
    """

    width: float
    resolution: int

    def __str__(self) -> str:
        two_decimals = f"{self.width:.2f}"
        # Names of files and calibrations are read back: a width of 1/3 must not become 0.33.
        width = two_decimals if float(two_decimals) == self.width else repr(float(self.width))
        return f"{width}x{self.resolution}"

    @classmethod
    def parse(cls, text: str) -> OperatingPoint:
        """Read ``"0.50x360"``; ValueError for anything else."""
        match = _PATTERN.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"{text!r} is not an operating point. Expected WIDTHxRESOLUTION, "
                "such as 0.50x360: half the channels, a short side of 360 pixels."
            )
        return cls(float(match[1]), int(match[2]))
