"""
Faster and Mask R-CNN at inference on tensors alone: what TorchScript and ONNX can hold.

Detectron2's inference passes Python objects around. Here are its layers and its steps, in a form
that can be scripted, for any number of images, and traced, for one image of any size. That it finds
the same is checked at every export.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ROIAlign, shapes_to_tensor
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.structures import Boxes, ImageList
from torch import Tensor, nn
from torchvision.ops import batched_nms

from .errors import ExportError
from .plain import check_finds_objects

# What a graph gives for an image, in this order; masks only if the model has them.
OUTPUTS = ("boxes", "scores", "classes", "masks")


def check_has_graph(cfg: CfgNode, model: nn.Module) -> None:
    """ExportError, saying what is supported, for a network that is not made of known parts."""
    check_finds_objects(cfg)
    if not isinstance(model, GeneralizedRCNN):
        unsupported = f"a {type(model).__name__}"
    elif isinstance(model.roi_heads, CascadeROIHeads):
        unsupported = "a Cascade R-CNN"
    elif not isinstance(model.roi_heads, StandardROIHeads):
        unsupported = f"an R-CNN with {type(model.roi_heads).__name__}"
    elif model.roi_heads.keypoint_on:
        unsupported = "a Keypoint R-CNN"
    elif not isinstance(model.proposal_generator.anchor_generator, DefaultAnchorGenerator):
        unsupported = "an R-CNN with rotated anchors"
    elif not all(
        isinstance(pooler, ROIAlign) for pooler in model.roi_heads.box_pooler.level_poolers
    ):
        unsupported = "an R-CNN whose MODEL.ROI_BOX_HEAD.POOLER_TYPE is no ROIAlign"
    else:
        return
    raise ExportError(
        f"The model is {unsupported}; --format torchscript and onnx take Faster R-CNN and Mask "
        "R-CNN. --format detectron2 takes it."
    )


class Trunk(nn.Module):
    """
    Trunk of a detector: what is computed once for the whole image.

    Input (N, 3, H, W), normalised and padded. Output: the pyramid's levels that regions are pooled
    from, and on each level of the RPN objectness (N, A, H', W') and deltas (N, 4 A, H', W').
    """

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.head = model.proposal_generator.rpn_head
        self.levels = model.proposal_generator.in_features
        self.region_levels = model.roi_heads.box_in_features

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        features = self.backbone(images)
        objectness, deltas = self.head([features[name] for name in self.levels])
        return [features[name] for name in self.region_levels], objectness, deltas


class BoxHead(nn.Module):
    """Pooled regions (R, C, S, S) to class logits (R, K + 1) and deltas (R, 4 K), or (R, 4)."""

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__()
        self.head = model.roi_heads.box_head
        self.predictor = model.roi_heads.box_predictor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.predictor(self.head(x))


class MaskHead(nn.Module):
    """Pooled regions (R, C, S, S) to mask logits (R, K, 2 S, 2 S), or (R, 1, 2 S, 2 S)."""

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__()
        self.head = model.roi_heads.mask_head

    def forward(self, x: Tensor) -> Tensor:
        return self.head.layers(x)


class Pooler(nn.Module):
    """
    Detectron2's ROIPooler, but it leaves the regions in the order of their levels: to put what a
    head makes of them back in place moves far less memory.
    """

    def __init__(self, pooler: ROIPooler) -> None:
        super().__init__()
        self.level_poolers = pooler.level_poolers
        self.min_level, self.max_level = pooler.min_level, pooler.max_level
        self.canonical_size, self.canonical_level = (
            pooler.canonical_box_size,
            pooler.canonical_level,
        )

    def forward(self, features: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """
        Args:
            features: levels (N, C, H, W), highest resolution first.
            boxes: (R_i, 4) of each image, R in all.

        Returns:
            (R, C, S, S), ordered by level, and the place (R,) of each among the boxes.
        """
        regions = torch.cat(
            [torch.cat([torch.full_like(b[:, :1], i), b], dim=1) for i, b in enumerate(boxes)]
        )
        levels = assign_boxes_to_levels(
            [Boxes(regions[:, 1:])],
            self.min_level,
            self.max_level,
            self.canonical_size,
            self.canonical_level,
        )
        pooled, order = [], []
        for level, pooler in enumerate(self.level_poolers):
            here = (levels == level).nonzero()[:, 0]
            pooled.append(pooler(features[level], regions[here]))
            order.append(here)
        return torch.cat(pooled), torch.cat(order)


class TorchNMS(nn.Module):
    """
    Non-maximum suppression within groups.

    Input: boxes (G, M, 4) and scores (G, M) of G groups, the overlap above which the lower score
    goes, and the score that boxes must exceed. Output: group (R,) and place in it (R,) of those
    that stay, by falling score.
    """

    def forward(
        self, boxes: Tensor, scores: Tensor, iou: float, threshold: float
    ) -> tuple[Tensor, Tensor]:
        group, place = (scores > threshold).nonzero().unbind(dim=1)
        kept = batched_nms(boxes[group, place], scores[group, place], group, iou)
        return group[kept], place[kept]


class DetectorGraph(nn.Module):
    """
    Faster or Mask R-CNN from images to detections.

    Args:
        model: a plain network in evaluation mode, see :func:`check_has_graph`.
        nms: as :class:`TorchNMS`.
    """

    def __init__(self, model: GeneralizedRCNN, nms: nn.Module) -> None:
        super().__init__()
        rpn, heads = model.proposal_generator, model.roi_heads
        self.nms = nms
        self.trunk = Trunk(model)
        self.box_head, self.box_pooler = BoxHead(model), Pooler(heads.box_pooler)
        self.mask_head, self.mask_pooler = None, None
        if heads.mask_on:
            self.mask_head, self.mask_pooler = MaskHead(model), Pooler(heads.mask_pooler)
        self.anchors = rpn.anchor_generator
        self.proposal_transform = rpn.box2box_transform
        self.box_transform = heads.box_predictor.box2box_transform
        self.register_buffer("mean", model.pixel_mean)
        self.register_buffer("std", model.pixel_std)
        self.divisor = model.backbone.size_divisibility
        self.before_nms, self.after_nms = rpn.pre_nms_topk[False], rpn.post_nms_topk[False]
        self.proposal_iou, self.smallest = rpn.nms_thresh, rpn.min_box_size
        self.iou = heads.box_predictor.test_nms_thresh
        self.threshold = heads.box_predictor.test_score_thresh
        self.most = heads.box_predictor.test_topk_per_image
        self.lowest = float("-inf")  # a score below all others

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """
        Args:
            images: (3, H, W) each, resized, in units of 0-255.

        Returns:
            for each image ``boxes`` (R, 4) as x1, y1, x2, y2 in its pixels, ``scores`` (R,),
            falling, ``classes`` (R,) and with a mask head ``masks`` (R, 28, 28): probabilities, a
            grid over the box. R is 0 where nothing is found.
        """
        batch = ImageList.from_tensors(
            [(image - self.mean) / self.std for image in images], self.divisor
        )
        # The last coordinates of each image.
        limits = [
            shapes_to_tensor([x.shape[2], x.shape[1], x.shape[2], x.shape[1]]).to(batch.tensor)
            for x in images
        ]
        features, objectness, deltas = self.trunk(batch.tensor)
        proposals = self.propose(objectness, deltas, limits)
        results = self.find(features, proposals, limits)
        if self.mask_head is not None:
            pooled, order = self.mask_pooler(features, [x["boxes"] for x in results])
            logits = self.mask_head(pooled)
            if logits.shape[1] > 1:
                classes = torch.cat([x["classes"] for x in results])[order][:, None, None, None]
                logits = logits.gather(1, classes.expand(-1, 1, logits.shape[2], logits.shape[3]))
            masks = logits[order.argsort(), 0].sigmoid()
            start = 0
            for x in results:
                end = start + x["boxes"].shape[0]
                x["masks"] = masks[start:end]
                start = end
        return results

    def propose(
        self, objectness: list[Tensor], deltas: list[Tensor], limits: list[Tensor]
    ) -> list[Tensor]:
        """Proposals (R, 4) of each image."""
        anchors = self.anchors(objectness)
        levels, scores = [], []
        for level, (logits, moves) in enumerate(zip(objectness, deltas)):  # noqa: B905
            # (N, A, H, W) to (N, H * W * A), and (N, 4 A, H, W) to (N, H * W * A, 4)
            logits = logits.permute(0, 2, 3, 1).flatten(1)
            moves = moves.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
            count = logits.shape[1]
            # Filled up, so that a small level has as many as a large one.
            best, index = F.pad(logits, [0, self.before_nms], value=self.lowest).topk(
                self.before_nms
            )
            index = index % count
            boxes = self.proposal_transform.apply_deltas(
                moves.gather(1, index[:, :, None].expand(-1, -1, 4)).flatten(0, 1),
                anchors[level].tensor[index.flatten()],
            )
            levels.append(boxes.view(-1, self.before_nms, 4))
            scores.append(best)
        proposals: list[Tensor] = []
        for image, limit in enumerate(limits):
            # (L, M, 4) of L levels
            boxes = torch.stack([x[image] for x in levels])
            boxes = torch.minimum(boxes.clamp(min=0), limit)
            is_box = (boxes[..., 2:] - boxes[..., :2] > self.smallest).all(dim=-1)
            ranks = torch.stack([x[image] for x in scores]).masked_fill(~is_box, self.lowest)
            level, place = self.nms(boxes, ranks, self.proposal_iou, self.lowest)
            proposals.append(boxes[level[: self.after_nms], place[: self.after_nms]])
        return proposals

    def find(
        self, features: list[Tensor], proposals: list[Tensor], limits: list[Tensor]
    ) -> list[dict[str, Tensor]]:
        """Boxes, scores and classes of each image."""
        pooled, order = self.box_pooler(features, proposals)
        all_logits, all_deltas = self.box_head(pooled)
        back = order.argsort()
        all_logits, all_deltas = all_logits[back], all_deltas[back]
        results: list[dict[str, Tensor]] = []
        start = 0
        for own, limit in zip(proposals, limits):  # noqa: B905
            end = start + own.shape[0]
            # (K, R) of K classes without the background, and boxes (K or 1, R, 4)
            scores = all_logits[start:end].softmax(dim=1)[:, :-1].t()
            boxes = self.box_transform.apply_deltas(all_deltas[start:end], own)
            boxes = torch.minimum(boxes.unflatten(1, (-1, 4)).clamp(min=0), limit)
            boxes = boxes.transpose(0, 1).expand(scores.shape[0], -1, -1)
            classes, place = self.nms(boxes, scores, self.iou, self.threshold)
            classes, place = classes[: self.most], place[: self.most]
            results.append(
                {
                    "boxes": boxes[classes, place],
                    "scores": scores[classes, place],
                    "classes": classes,
                }
            )
            start = end
        return results
