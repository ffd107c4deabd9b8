"""
The idea in a hundred lines: one small detector that runs at any width and any resolution.

It finds the two shapes in a generated image, a class and a box for each, with torch and
``mutualnet_det.slimmable`` alone. Training takes half a minute on one CPU core.
"""

import random
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mutualnet_det.slimmable import (
    Calibrations,
    Channels,
    OperatingPoint,
    SlimmableBatchNorm2d,
    SlimmableConv2d,
    Width,
    at_width,
)

CLASSES = ("background", "square", "disc", "diamond")
CELLS = 4  # the detector gives an answer for each of 4 x 4 parts of the image
NARROWEST, FULL = 0.25, 1.0
RESOLUTIONS = (64, 48, 32)  # px
GRID = [OperatingPoint(w, r) for w in (0.25, 0.5, 1.0) for r in (32, 48, 64)]


def draw(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (N, 3, 64, 64), and the class (N, 4, 4) and box (N, 4, 4, 4) of each cell."""
    size = RESOLUTIONS[0]
    images = 0.05 + 0.4 * torch.rand(count, 3, 1, 1) + 0.1 * torch.randn(count, 3, size, size)
    labels = torch.zeros(count, CELLS, CELLS, dtype=torch.long)
    boxes = torch.zeros(count, 4, CELLS, CELLS)
    place = (torch.arange(size) + 0.5) / size
    for n in range(count):
        for left in (0.0, 0.5):  # one object in each half
            label, radius = random.randint(1, 3), random.uniform(0.1, 0.2)
            x, y = left + random.uniform(0.2, 0.3), random.uniform(0.2, 0.8)
            dx, dy = (place - x).abs(), (place[:, None] - y).abs()
            distance = (torch.maximum(dx, dy), torch.hypot(dx, dy), dx + dy)[label - 1]
            images[n, :, distance < radius] = 0.6 + 0.4 * torch.rand(3, 1)
            row, column = int(y * CELLS), int(x * CELLS)  # the cell that answers for this object
            labels[n, row, column] = label
            x, y = x - (column + 0.5) / CELLS, y - (row + 0.5) / CELLS  # from the cell's middle
            sides = (x - radius, y - radius, x + radius, y + radius)
            boxes[n, :, row, column] = torch.tensor(sides)
    return images, labels, boxes


def detector() -> nn.Module:
    """A network whose channels follow one width; only the image and the answers never slim."""
    width = Width(NARROWEST, FULL)

    def block(before: Channels, after: Channels, stride: int) -> list[nn.Module]:
        conv = SlimmableConv2d(before, after, 3, stride, 1, bias=False, width=width)
        return [conv, SlimmableBatchNorm2d(after, width=width), nn.ReLU()]

    image, answers = Channels.fixed(3), Channels.fixed(len(CLASSES) + 4)
    c1, c2, c3 = Channels(16), Channels(32), Channels(64)
    return nn.Sequential(
        *block(image, c1, 2),
        *block(c1, c2, 2),
        *block(c2, c3, 2),
        *block(c3, c3, 1),
        # The same cells at every resolution: answers can be compared one by one.
        nn.AdaptiveAvgPool2d(CELLS),
        *block(c3, c3, 1),
        SlimmableConv2d(c3, answers, 1, width=width),
    )


def detect(model: nn.Module, images: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Scores of the classes and boxes, both (N, 4, 4, 4), of images resized to that many px."""
    size = (resolution, resolution)
    images = F.interpolate(images, size, mode="bilinear", antialias=True)
    return model(images).split([len(CLASSES), 4], dim=1)


def loss_by_truth(scores: Tensor, boxes: Tensor, labels: Tensor, true_boxes: Tensor) -> Tensor:
    """The class of every cell, and the box of those with an object."""
    weights = torch.tensor([0.2, 1.0, 1.0, 1.0])  # 14 of 16 cells are background
    box_loss = F.l1_loss(boxes, true_boxes, reduction="none").mean(1)[labels > 0].mean()
    return F.cross_entropy(scores, labels, weights) + 5 * box_loss


def train_step(model: nn.Module, images: Tensor, labels: Tensor, true_boxes: Tensor) -> None:
    """Add up the gradients of one iteration of mutual learning."""
    # The full network learns from the ground truth, at the largest resolution.
    scores, boxes = detect(model, images, RESOLUTIONS[0])
    loss_by_truth(scores, boxes, labels, true_boxes).backward()
    teacher = scores.detach().softmax(dim=1)
    # The narrowest network and two of random width, each at a resolution of its own, learn from
    # the ground truth and from what the full network has just answered.
    for width in (NARROWEST, random.uniform(NARROWEST, FULL), random.uniform(NARROWEST, FULL)):
        with at_width(model, width):
            scores, boxes = detect(model, images, random.choice(RESOLUTIONS))
            loss = loss_by_truth(scores, boxes, labels, true_boxes)
            (loss + F.cross_entropy(scores, teacher)).backward()


@torch.no_grad()
def evaluate(model: nn.Module) -> dict[OperatingPoint, tuple[float, float, float]]:
    """Million multiply-adds, loss and share of objects found at each operating point."""
    calibrations = Calibrations(model)
    training_images, _, _ = draw(256)
    images, labels, true_boxes = draw(256)
    objects, results = labels > 0, {}
    for point in GRID:
        # The statistics of batch normalisation fit one operating point alone: each has its own.
        forward = partial(detect, model, resolution=point.resolution)
        calibrations.calibrate(point, training_images.split(64), forward)
        with calibrations.at(point), FlopCounterMode(display=False) as counter:
            scores, boxes = detect(model, images, point.resolution)
        right = (scores.argmax(dim=1) == labels) & (overlap(boxes, true_boxes) > 0.5)
        results[point] = (
            counter.get_total_flops() / 2 / len(images) / 1e6,
            loss_by_truth(scores, boxes, labels, true_boxes).item(),
            right[objects].float().mean().item(),
        )
    return results


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (N, 4, 4) of the cells' boxes (N, 4, 4, 4)."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    both = (high - low).clamp(min=0).prod(dim=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1) for boxes in (a, b)]
    return both / (areas[0] + areas[1] - both)


def main(steps: int = 600) -> tuple[dict, dict]:
    """Train and print a table; return what :func:`evaluate` gives before and after."""
    random.seed(0)
    torch.manual_seed(0)
    model = detector()
    before = evaluate(model)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        train_step(model, *draw(16))
        optimizer.step()
        schedule.step()
    after = evaluate(model)
    print("point     MFLOPs    loss before    after    objects found")
    for point, (cost, loss, share) in sorted(after.items(), key=lambda item: item[1]):
        print(f"{point!s:8} {cost:7.2f} {before[point][1]:14.2f} {loss:8.2f} {share:16.0%}")
    return before, after


if __name__ == "__main__":
    main()
