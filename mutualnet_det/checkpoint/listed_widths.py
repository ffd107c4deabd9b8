"""
The widths that a checkpoint of the public slimmable code lists, and its statistics for them.

Each of its norms holds ``bn.K.running_mean`` and ``running_var``, sliced to the channels of the
K-th width of a list that stands in the training's config only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..slimmable import Channels
from ..slimmable.channels import DIVISOR

# A multiple of 0.25 that has the channels is preferred to one of 0.05, and so on.
WIDTH_STEPS = (0.25, 0.05, 0.025, 0.01, 0.005, 0.001)

# Mean and variance by norm.
Statistics = dict[str, tuple[Tensor, Tensor]]

_KEY = re.compile(r"(?P<norm>.+)\.bn\.(?P<k>\d+)\.(?P<name>running_mean|running_var)")
_COUNTER = re.compile(r".+\.bn\.\d+\.num_batches_tracked")


def split_listed(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[int, Statistics]]:
    """
    Take the statistics of listed widths out of a state dict.

    Returns:
        what else the state dict holds, and the statistics by K and by norm. The counters of
        batches among them are left out: nothing reads them.
    """
    plain: dict[str, Tensor] = {}
    by_number: dict[int, dict[str, dict[str, Tensor]]] = {}
    for key, value in state.items():
        match = _KEY.fullmatch(key)
        if match is not None:
            norms = by_number.setdefault(int(match["k"]), {})
            norms.setdefault(match["norm"], {})[match["name"]] = value
        elif _COUNTER.fullmatch(key) is None:
            plain[key] = value
    listed = {
        k: {
            norm: (pair["running_mean"].float(), pair["running_var"].float())
            for norm, pair in norms.items()
            if len(pair) == 2
        }
        for k, norms in sorted(by_number.items())
    }
    return plain, listed


def infer_width(counts: Mapping[str, int], dims: Mapping[str, Channels]) -> float | None:
    """
    The roundest width at which dimensions have these channel counts; None if there is none.

    Args:
        counts: channels by name.
        dims: dimensions by name. Those that do not slim, or have no count, tell nothing.

    >>> infer_width({"a": 24, "b": 224}, {"a": Channels(32), "b": Channels(320)})
    0.7
    """
    told = [(dim, counts[name]) for name, dim in dims.items() if dim.slims and name in counts]
    if not told:
        return None
    dim, count = max(told, key=lambda pair: pair[0].base / pair[0].ratio)
    # Rounding moves a count by less than its multiple.
    low, high = count - DIVISOR * dim.ratio, count + DIVISOR * dim.ratio
    for step in WIDTH_STEPS:
        multiples = range(max(1, int(low / dim.base / step)), int(high / dim.base / step) + 2)
        for width in (round(multiple * step, 6) for multiple in multiples):
            if all(dim.at(width) == count for dim, count in told):
                return width
    return None


def was_updated(statistics: Statistics) -> bool:
    """Tell whether statistics are any but those that a norm begins with."""
    return any(bool(mean.any()) or bool((var != 1).any()) for mean, var in statistics.values())


def counts_of(statistics: Statistics) -> dict[str, int]:
    """Channels by norm; -1 where mean and variance are not a vector each, of one length."""
    return {
        norm: len(mean) if mean.dim() == 1 and mean.shape == variance.shape else -1
        for norm, (mean, variance) in statistics.items()
    }
