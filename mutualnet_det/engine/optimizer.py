"""The optimiser: Detectron2's, with depthwise convolutions kept out of weight decay."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import (
    get_default_optimizer_params,
    maybe_add_gradient_clipping,
    reduce_param_groups,
)
from torch import nn


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict]:
    """
    Parameter groups by learning rate and weight decay.

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
    return reduce_param_groups(groups + [{"params": depthwise, "weight_decay": 0.0}])


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with Detectron2's momentum, Nesterov and gradient clipping keys."""
    optimizer = maybe_add_gradient_clipping(cfg, torch.optim.SGD)
    return optimizer(
        parameter_groups(cfg, model),
        lr=cfg.SOLVER.BASE_LR,
        momentum=cfg.SOLVER.MOMENTUM,
        nesterov=cfg.SOLVER.NESTEROV,
        foreach=True,
    )
