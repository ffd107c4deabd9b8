"""
Calls of each kind of network on images, Detectron2's own and those of this project.

Inputs are Detectron2's: a dict with "image" (3, H, W) for each of N images.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from detectron2.modeling import GeneralizedRCNN, PanopticFPN, SemanticSegmentor
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Instances
from torch import Tensor, nn

from .classifier import MutualClassifier
from .parts import normalised_batch


class Output(NamedTuple):
    """
    The output of a network for an image.

    Attributes:
        instances: detections at the network's scale; None of a network that makes none.
        logits: of a Panoptic FPN and a SemanticSegmentor those of the pixels (K, H, W), of a
            classifier (K,), of others None.
    """

    instances: Instances | None
    logits: Tensor | None


@functools.singledispatch
def infer_batch(model: nn.Module, batched_inputs: list[dict[str, Any]]) -> list[Output]:
    """The outputs of ``model``, in evaluation mode, at the width in force."""
    raise TypeError(f"A {type(model).__name__} is no kind of network that is known here.")


@infer_batch.register(GeneralizedRCNN)
def _(model: GeneralizedRCNN, batched_inputs: list[dict[str, Any]]) -> list[Output]:
    results = model.inference(batched_inputs, do_postprocess=False)
    return [Output(instances, None) for instances in results]


@infer_batch.register(PanopticFPN)
def _(model: PanopticFPN, batched_inputs: list[dict[str, Any]]) -> list[Output]:
    return list(map(Output, *model.inference(batched_inputs, do_postprocess=False)))


@infer_batch.register(DenseDetector)
def _(model: DenseDetector, batched_inputs: list[dict[str, Any]]) -> list[Output]:
    images = model.preprocess_image(batched_inputs)
    maps = model.backbone(images.tensor)
    features = [maps[name] for name in model.head_in_features]
    predictions = model.head(features)
    results = model.forward_inference(images, features, predictions)
    return [Output(instances, None) for instances in results]


@infer_batch.register(SemanticSegmentor)
def _(model: SemanticSegmentor, batched_inputs: list[dict[str, Any]]) -> list[Output]:
    logits, _ = model.sem_seg_head(backbone_features(model, batched_inputs))
    return [Output(None, each) for each in logits]


@infer_batch.register(MutualClassifier)
def _(model: MutualClassifier, batched_inputs: list[dict[str, Any]]) -> list[Output]:
    return [Output(None, each) for each in model.logits(batched_inputs)]


@functools.singledispatch
def backbone_features(model: nn.Module, batched_inputs: list[dict[str, Any]]) -> Any:
    """Features of the images by the backbone of ``model``, preprocessed as the model does it."""
    return model.backbone(model.preprocess_image(batched_inputs).tensor)


@backbone_features.register(SemanticSegmentor)
def _(model: SemanticSegmentor, batched_inputs: list[dict[str, Any]]) -> Any:
    return model.backbone(normalised_batch(model, batched_inputs).tensor)


@backbone_features.register(MutualClassifier)
def _(model: MutualClassifier, batched_inputs: list[dict[str, Any]]) -> Any:
    return model.backbone(model.preprocess_image(batched_inputs))
