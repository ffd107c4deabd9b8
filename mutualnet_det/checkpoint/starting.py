"""Starting a training from a network of other classes or heads: all that fits is taken over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence

from torch import Tensor, nn

from ..data.class_names import ClassNames, quoted
from ..modeling.backbones import SlimmableBackbone
from ..modeling.class_outputs import class_outputs

logger = logging.getLogger(__name__)

State = dict[str, Tensor]


def start_state(
    state: State, model: nn.Module, learnt: ClassNames, names: ClassNames, path: str
) -> State:
    """
    A state dict for ``model``, from one of a network that may have other classes and heads.

    A class keeps what the network has learnt for the class of the same name, whatever its number
    was. New classes, and heads that the network lacks, have the values of ``model``; heads that
    the model lacks are left out. All else is as it was, whether it fits or not. What changes is
    logged.

    Args:
        learnt: names of the network's classes. Outputs of classes whose names are not known are
            taken over if there are as many as the model has.
        names: of the model's classes.
        path: of the network's file, for people.
    """
    own = model.state_dict()
    state, changes = _with_heads_of(own, state, _head_of(model))
    changes += [_compare(learnt[key], names[key]) for key in names if key in learnt]
    for layer, key, labels, dim in class_outputs(model):
        for entry, along in ((f"{layer}.weight", dim), (f"{layer}.bias", 0)):
            if entry not in state or entry not in own or state[entry] is own[entry]:
                continue
            if key in learnt and key in names:
                before, after = labels(learnt[key]), labels(names[key])
                state[entry] = _reordered(state[entry], own[entry], along, before, after)
            elif state[entry].shape[along] != own[entry].shape[along]:
                state[entry] = own[entry]
                changes.append(f"new, as not all {key} are known by name: {entry}")
    if any(changes):
        lines = "\n  ".join(filter(None, changes))
        logger.info("%s is of other classes or heads:\n  %s", path, lines)
    return state


def _head_of(model: nn.Module) -> Callable[[str], str]:
    """The function that names the head an entry of a state dict belongs to; "": to none."""
    if isinstance(model, SlimmableBackbone):
        behind = set(model.state_dict()) - model.feature_entries()
        return lambda entry: "the classifier" if entry in behind else ""
    # roi_heads.mask_head, proposal_generator, sem_seg_head and so on.
    depth = {"backbone": 0, "roi_heads": 2}

    def name(entry: str) -> str:
        parts = entry.split(".")
        return ".".join(parts[: depth.get(parts[0], 1)])

    return name


def _with_heads_of(
    own: State, state: State, head_of: Callable[[str], str]
) -> tuple[State, list[str]]:
    """
    A state dict with heads of which no entry is in both exchanged for those of ``own``, and what
    was done. A head with some of the entries is no other one: it does not fit.
    """
    heads = dict.fromkeys(map(head_of, [*own, *state]))
    result, changes = dict(state), []
    for head in filter(None, heads):
        wanted = {entry: value for entry, value in own.items() if head_of(entry) == head}
        given = [entry for entry in state if head_of(entry) == head]
        if wanted.keys().isdisjoint(given):
            for entry in given:
                del result[entry]
            result |= wanted
            changes += [f"left out: {head}"] * bool(given) + [f"new: {head}"] * bool(wanted)
    return result, changes


def _reordered(
    value: Tensor, own: Tensor, dim: int, before: Sequence[Hashable], after: Sequence[Hashable]
) -> Tensor:
    """
    An entry with the outputs that ``after`` labels: those of ``value``, which ``before`` labels,
    and new ones of ``own``. As it is, where its outputs serve all classes alike.
    """
    others = [tensor.shape[:dim] + tensor.shape[dim + 1 :] for tensor in (value, own)]
    if value.shape[dim] != len(before) or own.shape[dim] != len(after) or others[0] != others[1]:
        return value
    result = own.clone()
    for index, label in enumerate(after):
        if label in before:
            result.select(dim, index).copy_(value.select(dim, before.index(label)))
    return result


def _compare(learnt: Sequence[str], names: Sequence[str]) -> str:
    """What becomes of the classes, for people; "" if they are the same."""
    if list(learnt) == list(names):
        return ""
    kept = [name for name in names if name in learnt]
    parts = {
        "kept": kept,
        "new": [name for name in names if name not in learnt],
        "left out": [name for name in learnt if name not in names],
    }
    return "\n  ".join(f"{what}: {quoted(part)}" for what, part in parts.items() if part)
