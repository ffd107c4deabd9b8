"""MutualClassifier: a slimmable backbone with its classifier, trained mutually as in the papers."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from torch import Tensor, nn

from ..config import ConfigError
from . import distillation
from .backbones.base import LOGITS
from .features import Losses
from .teaching import Teaching


class Classifier(nn.Module):
    """
    A classification network.

    Args:
        backbone: gives "logits" (N, K), where K is the number of classes.
        pixel_mean, pixel_std: per channel, in units of 0-255.
        label_smoothing: of the ground truth, from 0 to 1 (arXiv 1512.00567).

    Inputs are dicts with "image" (3, H, W), all of one size, in units of 0-255, and in training
    "label". In training mode it gives losses; in evaluation mode {"scores": (K,)} for each, which
    sum to 1.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.label_smoothing = label_smoothing
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg):
        if cfg.MODEL.BACKBONE.NUM_CLASSES < 1:
            raise ValueError(
                f"MODEL.BACKBONE.NUM_CLASSES is {cfg.MODEL.BACKBONE.NUM_CLASSES}; a classifier "
                "needs at least 1."
            )
        backbone = build_backbone(cfg)
        dropout = cfg.MUTUALNET.CLASSIFICATION.DROPOUT
        if dropout > 0 and not any(isinstance(m, nn.Dropout) for m in backbone.modules()):
            raise ConfigError(
                f"MUTUALNET.CLASSIFICATION.DROPOUT is {dropout}; expected 0 for "
                f"MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME!r}, whose classifier has none."
            )
        return {
            "backbone": backbone,
            "pixel_mean": tuple(cfg.MODEL.PIXEL_MEAN),
            "pixel_std": tuple(cfg.MODEL.PIXEL_STD),
            "label_smoothing": cfg.MUTUALNET.CLASSIFICATION.LABEL_SMOOTHING,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def preprocess_image(self, batched_inputs: list[dict]) -> Tensor:
        """Normalised images (N, 3, H, W) on the model's device."""
        images = torch.stack([item["image"].to(self.device) for item in batched_inputs])
        return (images - self.pixel_mean) / self.pixel_std

    def logits(self, batched_inputs: list[dict]) -> Tensor:
        """Logits (N, K) at the width in force."""
        return self.backbone(self.preprocess_image(batched_inputs))[LOGITS]

    def forward(self, batched_inputs: list[dict]) -> Losses | list[dict[str, Tensor]]:
        logits = self.logits(batched_inputs)
        if self.training:
            return self.losses(logits, batched_inputs)
        return [{"scores": scores} for scores in logits.softmax(dim=1)]

    def losses(self, logits: Tensor, batched_inputs: list[dict]) -> Losses:
        """The loss from the ground truth, ``loss_class``, of logits (N, K)."""
        labels = torch.as_tensor([item["label"] for item in batched_inputs], device=logits.device)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return {"loss_class": loss}


@META_ARCH_REGISTRY.register()
class MutualClassifier(Teaching, Classifier):
    """
    A classification network that teaches its sub-networks (arXiv 1909.12978, algorithm 1).

    Args:
        others: as for :class:`Teaching` and :class:`Classifier`.
    """

    def teach(self, batched_inputs: list[dict]) -> tuple[Losses, Tensor]:
        """
        Run a training pass of the full network.

        Returns:
            its loss from the ground truth, and its detached logits (N, K).
        """
        logits = self.logits(batched_inputs)
        return self.losses(logits, batched_inputs), logits.detach()

    def study(self, batched_inputs: list[dict], teacher: Tensor) -> Losses:
        """
        Run a training pass of the sub-network whose width is in force.

        Args:
            batched_inputs: the teacher's images at this pass's resolution, in the same order.
            teacher: the full network's logits (N, K).

        Returns:
            the weighted losses ``loss_class`` (ground truth) and ``loss_distill_class``. A loss of
            weight 0 is neither computed nor returned.
        """
        weights = self.loss_weights
        logits = self.logits(batched_inputs)
        losses = {}
        if weights["GROUND_TRUTH"] > 0:
            (loss,) = self.losses(logits, batched_inputs).values()
            losses["loss_class"] = weights["GROUND_TRUTH"] * loss
        if weights["CLASS"] > 0:
            loss = distillation.class_distillation(logits, teacher, self.temperature)
            losses["loss_distill_class"] = weights["CLASS"] * loss
        return losses


@functools.singledispatch
def network_of(model: nn.Module) -> nn.Module:
    """
    The module whose weights a checkpoint of ``model`` holds: the model itself, but of a classifier
    its backbone, so that the names are torchvision's and a detector can take the weights over.
    """
    return model


@network_of.register(MutualClassifier)
def _(model: MutualClassifier) -> nn.Module:
    return model.backbone
