"""
Distillation of the features of the teacher's pyramid.

Shapes: N images, c channels of a student's level and C of a teacher's, P cells over the batch.
Sizes are (height, width) in pixels, before padding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor

from ..config import ConfigError
from ..data.views import scale_ratio
from .correspondence import averaged_over_cells, corresponding_level

Features = dict[str, Tensor]
Losses = dict[str, Tensor]
Sizes = list[tuple[int, int]]


def feature_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """
    1 less the correlation of a channel's cells with the teacher's, averaged over the channels
    (PKD, arXiv 2207.02039): half the mean squared difference of standardised features.

    A channel's magnitude and offset do not count. They could not be the teacher's: the heads of a
    narrow student add up fewer channels. Nor does a channel count more for a large magnitude.

    Args:
        student: (c, P).
        teacher: (C, P). The first c of its channels are the student's; no gradient reaches it.

    Returns:
        from 0, where they agree, to 2.
    """
    one, other = (
        F.layer_norm(x.float(), x.shape[1:]) for x in (student, teacher.detach()[: len(student)])
    )
    return F.mse_loss(one, other) / 2


def pyramid_distillation(
    student: Features,
    teacher: Features,
    student_sizes: Sizes,
    teacher_sizes: Sizes,
    shapes: Mapping[str, ShapeSpec],
) -> Tensor:
    """
    :func:`feature_distillation` of each of the student's levels from the teacher's that corresponds
    to it, averaged over the levels. One without a counterpart is left out; padding is cut off.

    Levels correspond image by image, by the image's own ratio of sizes. Where no level has cells of
    the same size, as at ratios between powers of 2, the nearest one's features are averaged over
    the area of each of the student's cells: the student is compared on the grid that it has.

    Args:
        student, teacher: (N, c, h, w) and (N, C, H, W) by level, of padded batches of the same
            images.
        student_sizes, teacher_sizes: the images' sizes in either.
        shapes: of the levels, with their strides.

    Returns:
        the loss; 0, still attached to the student, if no level has a counterpart.
    """
    names = list(shapes)
    strides = [shapes[name].stride for name in names]
    losses = []
    for name, stride in zip(names, strides, strict=True):
        student_parts, taught = [], []
        for index, (size, full_size) in enumerate(zip(student_sizes, teacher_sizes, strict=True)):
            level = corresponding_level(stride, scale_ratio(size, full_size), strides)
            if level is None:
                continue
            one = student[name][index]
            target = averaged_over_cells(
                teacher[names[level]][index, : len(one)], full_size, strides[level], size, stride
            )
            height, width = target.shape[-2:]
            student_parts.append(one[:, :height, :width].flatten(1))
            taught.append(target.flatten(1))
        if student_parts:
            losses.append(
                feature_distillation(torch.cat(student_parts, dim=1), torch.cat(taught, dim=1))
            )
    if not losses:
        return sum(x.sum() for x in student.values()) * 0
    return sum(losses) / len(losses)


def feature_losses(
    backbone: Backbone,
    student: Features,
    student_sizes: Sizes,
    teacher: Features | None,
    teacher_sizes: Sizes,
    weights: Mapping[str, float],
) -> Losses:
    """
    The loss of a sub-network against the teacher's pyramid: the weighted
    ``loss_distill_feature``, or nothing if the weight "FEATURE" is 0.

    Args:
        backbone: that gives the features.
        others: as for :func:`pyramid_distillation`.
    """
    if weights["FEATURE"] == 0:
        return {}
    shapes = backbone.output_shape()
    loss = pyramid_distillation(student, teacher, student_sizes, teacher_sizes, shapes)
    return {"loss_distill_feature": weights["FEATURE"] * loss}


def detached(features: Features) -> Features:
    """The features as a teacher hands them out."""
    return {name: x.detach() for name, x in features.items()}


def check_pyramid(backbone: Backbone, weight: float) -> None:
    """ConfigError for a weight above 0 of features that no pyramid gives."""
    shapes = backbone.output_shape()
    if weight > 0 and (len(shapes) < 2 or len({x.channels for x in shapes.values()}) > 1):
        levels = ", ".join(f"{name} ({x.channels} channels)" for name, x in shapes.items())
        raise ConfigError(
            f"MUTUALNET.LOSS_WEIGHTS.FEATURE is {weight:g}; expected 0 over a "
            f"{type(backbone).__name__} that gives {levels}: features correspond between the "
            "levels of a pyramid, which all have one number of channels."
        )
