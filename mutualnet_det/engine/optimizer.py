"""The optimiser: Detectron2's, without weight decay of depthwise convolutions; clipping; resume."""

from __future__ import annotations

import logging
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import (
    GradientClipType,
    get_default_optimizer_params,
    reduce_param_groups,
)
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from ..compat import foreach_clamp_, foreach_mul_, foreach_norm

logger = logging.getLogger(__name__)


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict]:
    """
    Group parameters by learning rate and weight decay.

    Norms and biases decay as ``SOLVER.WEIGHT_DECAY_NORM`` and ``WEIGHT_DECAY_BIAS`` say (0 in this
    project's configs), depthwise convolutions never: the published recipe (arXiv 1909.12978).
    """
    groups = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
    depthwise = [
        module.weight
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
        and module.groups == module.in_channels > 1
        and module.weight.requires_grad
    ]
    # Where a parameter stands twice, the later values hold.
    return reduce_param_groups([*groups, {"params": depthwise, "weight_decay": 0.0}])


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build what ``SOLVER.OPTIMIZER`` names. It clips nothing: see :func:`clip`."""
    groups, lr, momentum = parameter_groups(cfg, model), cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM
    if cfg.SOLVER.OPTIMIZER == "ADAMW":
        return torch.optim.AdamW(groups, lr, betas=(momentum, 0.999), foreach=True)
    return torch.optim.SGD(groups, lr, momentum, nesterov=cfg.SOLVER.NESTEROV, foreach=True)


def resume_optimizer(
    cfg: CfgNode, optimizer: torch.optim.Optimizer, scheduler: LRScheduler, state: dict[str, Any]
) -> None:
    """
    Load an optimiser's state; settings that the config has changed since stay as they are now.

    Args:
        scheduler: of the learning rate, with its state loaded.
        state: from the optimiser's ``state_dict``.

    Raises:
        ValueError: if it is the state of another optimiser, or of other groups of weights.
    """
    groups, saved_groups = optimizer.param_groups, state["param_groups"]
    if ("betas" in saved_groups[0]) != ("betas" in groups[0]):  # torch would not notice
        raise ValueError(f"SOLVER.OPTIMIZER is now {cfg.SOLVER.OPTIMIZER!r}")
    if [len(group["params"]) for group in saved_groups] != [len(g["params"]) for g in groups]:
        raise ValueError(
            "SOLVER.WEIGHT_DECAY, WEIGHT_DECAY_NORM, WEIGHT_DECAY_BIAS and BIAS_LR_FACTOR now "
            "give rates and decays to other groups of weights"
        )
    # The rate itself is the schedule's, which goes on from the state.
    settings = [{k: v for k, v in group.items() if k not in ("params", "lr")} for group in groups]
    optimizer.load_state_dict(state)
    changed = {}
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        for name, value in own.items():
            if group.get(name) != value:
                changed[name] = f"{name} was {group.get(name)} and is {value}"
                group[name] = value
    # The schedule may have changed too.
    scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
        group["lr"] = rate
    if changed:
        logger.warning("The optimiser's settings have changed: %s", "; ".join(changed.values()))


@torch.no_grad()
def clip(cfg: CfgNode, parameters: list[Tensor]) -> Tensor:
    """
    Clip gradients as ``SOLVER.CLIP_GRADIENTS`` says: each parameter's by itself, as Detectron2
    does.

    Args:
        parameters: with their gradients; those without one do not count.

    Returns:
        Tensor: the norm (2) of all gradients together before clipping, a scalar; not finite if one
        of them is not.
    """
    node = cfg.SOLVER.CLIP_GRADIENTS
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = foreach_norm(gradients)
    if node.ENABLED and GradientClipType(node.CLIP_TYPE) is GradientClipType.VALUE:
        foreach_clamp_(gradients, -node.CLIP_VALUE, node.CLIP_VALUE)
    elif node.ENABLED:
        kind = node.NORM_TYPE
        lengths = norms if kind == 2 else foreach_norm(gradients, kind)
        scales = (node.CLIP_VALUE / (lengths + 1e-6)).clamp(max=1)  # as torch's clip_grad_norm_
        foreach_mul_(gradients, list(scales.unbind()))
    return norms.norm()
