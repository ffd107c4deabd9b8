"""Finding the network in a state dict of others, and the layout that its entries are named in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .layouts import LAYOUTS, Layout, recognise
from .listed_widths import Statistics, split_listed
from .reading import CheckpointError

_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module)\.")


def without_wrappers(name: str) -> str:
    """An entry's name without what torch.compile and FSDP put into it, in whatever place."""
    return _WRAPPERS.sub("", name)


class Network(NamedTuple):
    """
    A network in a state dict.

    Attributes:
        layout: that its entries are in.
        names: of its entries, without what they all begin with.
        plain: the entries that are of no listed width.
        listed: the statistics of listed widths.
        outside: names of the state dict's entries that begin with something else.
    """

    layout: Layout
    names: list[str]
    plain: dict[str, Tensor]
    listed: dict[int, Statistics]
    outside: list[str]


def recognise_state(state: Mapping[str, Tensor], path: str, prefix: str | None = None) -> Network:
    """
    The network of a state dict.

    Its entries may have a prefix, as those of DataParallel, Lightning and MoCo have, and others may
    stand beside them.

    Args:
        path: of the file, for messages.
        prefix: of the network's entries; None: the one with which there is a network.

    Raises:
        CheckpointError: if there is no network, or there are several and no prefix was given.
    """
    state = {without_wrappers(key): value for key, value in state.items()}
    found: dict[str, Network] = {}
    error: CheckpointError | None = None
    for start in _prefixes(state) if prefix is None else [f"{prefix.rstrip('.')}."]:
        # A network that lies in one that was found already is a part of it.
        if not any(start.startswith(outer) for outer in found):
            try:
                found[start] = _network(state, start, path)
            except CheckpointError as reason:
                error = error or reason
    if len(found) > 1:
        prefixes = [start.rstrip(".") for start in found]
        raise CheckpointError(
            f"{path} holds {len(found)} networks, whose entries begin with {', '.join(prefixes)}. "
            f"Say which to take, such as --prefix {prefixes[0]}."
        )
    if not found:
        assert error is not None  # one prefix at least was tried
        raise error
    return found.popitem()[1]


def _prefixes(names: Iterable[str]) -> list[str]:
    """
    What may stand before the names of a network, "" among it: first what most names begin with, and
    of equals the longest.
    """
    names = list(names)
    ends = dict.fromkeys(layout.required[0] for layout in LAYOUTS)
    starts = ["", *(n.removesuffix(end) for n in names for end in ends if n.endswith(f".{end}"))]
    counts = {start: sum(name.startswith(start) for name in names) for start in starts}
    return sorted(counts, key=lambda start: (-counts[start], -len(start)))


def _network(state: Mapping[str, Tensor], prefix: str, path: str) -> Network:
    inside = {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }
    if state and not inside:
        raise CheckpointError(f"{path} has no entry that begins with {prefix}")
    plain, listed = split_listed(inside)
    norms = dict.fromkeys(norm for statistics in listed.values() for norm in statistics)
    statistics = [f"{norm}.{name}" for norm in norms for name in ("running_mean", "running_var")]
    layout = recognise([*plain, *statistics], path)
    for k, by_norm in listed.items():
        for norm, pair in by_norm.items():
            if not all(bool(torch.isfinite(value).all()) for value in pair):
                raise CheckpointError(f"{path}: the statistics {norm}.bn.{k} are not finite.")
    outside = [key for key in state if not key.startswith(prefix)]
    return Network(layout, list(inside), plain, listed, outside)
