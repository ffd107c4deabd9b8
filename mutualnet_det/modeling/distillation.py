"""
Losses of a sub-network on the shared heads: from the ground truth and from the teacher.

Shapes: R proposals of a batch, F of them foreground, V of those with a visible keypoint in them, K
classes, P keypoints, M the side of a mask (28), S that of a heatmap (56). No gradient reaches a
teacher's tensor. Every distillation loss is 0 where student and teacher agree,
and 0, still attached to the student, where there is nothing to learn from.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor


def exact(logits: Tensor) -> Tensor:
    """Logits as float32 at least: in half precision, 8 or 11 bits would be left of targets."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def class_distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """
    KL divergence between the class distributions, times the squared temperature, averaged over the
    proposals (Hinton et al., arXiv 1503.02531; the public MutualNet code uses temperature 1).

    Args:
        student, teacher: logits (R, K + 1).
    """
    if len(student) == 0:
        return student.sum() * 0
    return temperature**2 * F.kl_div(
        F.log_softmax(exact(student) / temperature, dim=1),
        F.log_softmax(exact(teacher).detach() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )


def box_distillation(student: Tensor, teacher: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """
    L1 distance between the box deltas of foreground proposals, summed and divided by all proposals,
    as Detectron2 normalises its box loss.

    Args:
        student, teacher: deltas (R, K * 4), or (R, 4) if class-agnostic.
        classes: ground-truth classes (R,), ``num_classes`` for background.
    """
    foreground = torch.nonzero((classes >= 0) & (classes < num_classes)).squeeze(1)
    student, teacher = (
        deltas.unflatten(1, (-1, 4))[foreground, classes[foreground] if deltas.shape[1] > 4 else 0]
        for deltas in (exact(student), exact(teacher).detach())
    )
    return (student - teacher).abs().sum() / max(len(classes), 1)


def masks_of_classes(logits: Tensor, classes: Tensor) -> Tensor:
    """The mask logits (F, M, M) of each instance's class, out of (F, K, M, M) or (F, 1, M, M)."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logits[torch.arange(len(logits), device=logits.device), classes]


def mask_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """
    Soft cross-entropy between the masks, less the teacher's own entropy (a constant), averaged over
    the pixels: the KL divergence of the pixels' Bernoulli distributions.

    Args:
        student, teacher: logits (F, M, M) of the ground-truth class.
    """
    if student.numel() == 0:
        return student.sum() * 0
    teacher = exact(teacher).detach()
    target = teacher.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(teacher, target)
    return F.binary_cross_entropy_with_logits(exact(student), target) - entropy


def score_distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """
    Quality focal loss (arXiv 2006.04388) of the student's scores with the teacher's for targets,
    times the squared temperature, summed.

    It takes each class for a yes or no, as RetinaNet's own focal loss does and as suits the
    distillation of such scores (arXiv 2308.14286), and is 0 where the two agree.

    Args:
        student, teacher: logits of the same shape.
    """
    student, teacher = exact(student) / temperature, exact(teacher).detach() / temperature
    target = teacher.sigmoid()
    focus = (student.sigmoid() - target).square()
    cross_entropy = F.binary_cross_entropy_with_logits(student, target, reduction="none")
    return temperature**2 * (focus * cross_entropy).sum()


def mask_targets(instances: list[Instances], side: int) -> Tensor:
    """
    Ground-truth masks (F, side, side), cropped to the proposals and resized, as 0 and 1.

    They do not depend on the scale of the image, so one set serves all passes of an iteration.

    Args:
        instances: foreground proposals with ``proposal_boxes`` and ``gt_masks``, per image.
    """
    masks = [
        x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, side).to(x.proposal_boxes.device)
        for x in instances
        if len(x)
    ]
    if not masks:
        return torch.zeros(0, side, side, device=instances[0].proposal_boxes.device)
    return torch.cat(masks).float()


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """
    Binary cross-entropy of masks, averaged over the pixels: Mask R-CNN's (arXiv 1703.06870).

    Args:
        logits, targets: (F, M, M), of the ground-truth class.
    """
    if logits.numel() == 0:
        return logits.sum() * 0
    return F.binary_cross_entropy_with_logits(logits, targets)


def with_visible_keypoints(instances: Instances) -> Instances:
    """
    The proposals with a labelled keypoint inside, which a keypoint head learns from (Mask R-CNN,
    arXiv 1703.06870; the choice is Detectron2's).

    Args:
        instances: foreground proposals of an image, with ``proposal_boxes`` and ``gt_keypoints`` at
            one scale; without the latter if there are none.
    """
    if len(instances) == 0:
        return instances
    x, y, visibility = instances.gt_keypoints.tensor.unbind(dim=2)
    left, top, right, bottom = instances.proposal_boxes.tensor[:, None].unbind(dim=2)
    inside = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
    return instances[(inside & (visibility > 0)).any(dim=1)]


def keypoint_targets(
    instances: list[Instances], num_keypoints: int, side: int
) -> tuple[Tensor, Tensor]:
    """
    The place of each keypoint in its proposal's heatmap, whatever the scale of the image.

    Args:
        instances: proposals with ``proposal_boxes`` and ``gt_keypoints``, per image.

    Returns:
        positions (V, P) among the heatmap's ``side`` * ``side``, row by row, and whether there is
        one (V, P): the keypoint is labelled and inside its proposal.
    """
    heatmaps = [
        x.gt_keypoints.to_heatmap(x.proposal_boxes.tensor, side) for x in instances if len(x)
    ]
    if not heatmaps:
        none = torch.zeros(0, num_keypoints, device=instances[0].proposal_boxes.device)
        return none.long(), none.bool()
    positions, valid = zip(*heatmaps, strict=True)
    return torch.cat(positions), torch.cat(valid).bool()


def keypoint_loss(
    logits: Tensor, positions: Tensor, valid: Tensor, normalizer: float | None = None
) -> Tensor:
    """
    Cross-entropy over the positions of each heatmap, summed over the valid keypoints and divided by
    ``normalizer``, or by their number if it is None.

    Args:
        logits: (V, P, S, S).
        positions, valid: (V, P), from :func:`keypoint_targets`.
    """
    heatmaps = logits.flatten(2)[valid]
    if len(heatmaps) == 0:
        return logits.sum() * 0
    loss = F.cross_entropy(heatmaps, positions[valid], reduction="sum")
    return loss / (len(heatmaps) if normalizer is None else normalizer)


def keypoint_distillation(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """
    KL divergence between the distributions of a keypoint over the positions of its heatmap,
    averaged over the valid keypoints.

    Args:
        student, teacher: logits (V, P, S, S).
        valid: (V, P), from :func:`keypoint_targets`.
    """
    if not valid.any():
        return student.sum() * 0
    return F.kl_div(
        F.log_softmax(exact(student.flatten(2)[valid]), dim=1),
        F.log_softmax(exact(teacher.detach().flatten(2)[valid]), dim=1),
        reduction="batchmean",
        log_target=True,
    )
