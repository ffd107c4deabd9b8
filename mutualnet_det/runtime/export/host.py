"""
Steps of a program around an exported network, in NumPy alone. The card of an export holds these
functions as they stand here.
"""

from __future__ import annotations

import numpy as np


def resized(width: int, height: int, short: int, longest: int) -> tuple[int, int]:
    """Width and height at a short side of ``short``; less if the long one exceeds ``longest``."""
    scale = short / min(width, height)
    width, height = scale * width, scale * height
    scale = min(1, longest / max(width, height))
    return max(int(scale * width + 0.5), 1), max(int(scale * height + 0.5), 1)


def paste(mask: np.ndarray, box: np.ndarray, width: int, height: int) -> np.ndarray:
    """The pixels (height, width) that a mask of probabilities over a box covers."""

    def weights(low: float, high: float, pixels: int, cells: int) -> np.ndarray:
        place = (np.arange(pixels) + 0.5 - low) / (high - low) * cells - 0.5
        return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(cells)))  # bilinear

    rows = weights(box[1], box[3], height, mask.shape[0])
    columns = weights(box[0], box[2], width, mask.shape[1])
    return rows @ mask @ columns.T >= 0.5
