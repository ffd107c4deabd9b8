"""A few of many, evenly spread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def evenly(items: Sequence, count: int) -> list:
    """``count`` of the items, first and last among them, evenly between; all if they are fewer."""
    positions = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[position] for position in positions]
