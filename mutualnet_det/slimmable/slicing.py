"""Slicing: a plain network out of a slimmable one."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from .layers import SlimmableLayer
from .width import forget_width

Module = TypeVar("Module", bound=nn.Module)


def sliced(model: Module) -> Module:
    """
    A copy of ``model`` in which each slimmable layer is the plain layer it is right now.

    Width and statistics are those in force, so call it inside ``Calibrations.at(point)`` (or with
    nothing in force, for the full network). The copy has no width and shares no memory with the
    source.
    """
    # deepcopy puts what its memo holds wherever the original was referenced, in lists too.
    memo = {
        id(module): module.plain().train(module.training)
        for module in model.modules()
        if isinstance(module, SlimmableLayer)
    }
    plain = copy.deepcopy(model, memo)
    for module in plain.modules():
        forget_width(module)
    return plain
