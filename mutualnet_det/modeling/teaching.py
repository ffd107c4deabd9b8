"""The base of meta-architectures that teach their sub-networks."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from torch import nn

from ..config import LOSS_TERMS, default_loss_weights
from ..slimmable import width_of
from .features import check_pyramid
from .layers import set_norms


class Teaching(nn.Module):
    """
    Base of the meta-architectures that teach; it stands before the class that it completes.

    Args:
        temperature: of the distilled class distributions or scores.
        loss_weights: of a sub-network's losses, by the keys of ``LOSS_TERMS`` for its class; by
            default the config's.
        others: as for the class that it completes.
    """

    @configurable
    def __init__(
        self,
        *,
        temperature: float = 1.0,
        loss_weights: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.temperature = temperature
        if loss_weights is None:
            loss_weights = default_loss_weights(LOSS_TERMS[type(self).__name__])
        self.loss_weights = dict(loss_weights)
        width_of(self)  # joins the handles of the parts

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        args = super().from_config(cfg)
        check_pyramid(args["backbone"], cfg.MUTUALNET.LOSS_WEIGHTS.FEATURE)
        set_norms(cfg, *args.values())
        return {
            **args,
            "temperature": cfg.MUTUALNET.TEMPERATURE,
            "loss_weights": dict(cfg.MUTUALNET.LOSS_WEIGHTS),
        }
