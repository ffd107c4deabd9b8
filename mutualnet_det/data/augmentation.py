"""
Augmentations of a detector's training images, beyond flip and crop: ``MUTUALNET.AUGMENTATION``.

An image is augmented once. Every pass of an iteration sees what comes of it, at its own resolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from fvcore.transforms.transform import CropTransform, PadTransform, TransformList

from .views import resized_shape


def augmented(cfg: CfgNode, augmentations: list[T.Augmentation]) -> list[T.Augmentation]:
    """
    Detectron2's augmentations of a config, those of ``MUTUALNET.AUGMENTATION`` among them.

    What changes places comes before the resizing, but for the scale, which replaces it; what
    changes colours comes last, when an image is smallest.
    """
    node = cfg.MUTUALNET.AUGMENTATION
    augmentations = list(augmentations)
    (place,) = (i for i, a in enumerate(augmentations) if isinstance(a, T.ResizeShortestEdge))
    if node.SCALE:
        (resolution,) = cfg.INPUT.MIN_SIZE_TRAIN
        filling = float(np.mean(cfg.MODEL.PIXEL_MEAN))
        size = resolution, cfg.INPUT.MAX_SIZE_TRAIN
        augmentations[place] = ScaleJitter(node.SCALE, *size, filling)
    if node.ROTATION:
        augmentations.insert(place, T.RandomRotation([-node.ROTATION, node.ROTATION]))
    for strength, augmentation in (
        (node.BRIGHTNESS, T.RandomBrightness),
        (node.CONTRAST, T.RandomContrast),
        (node.SATURATION, T.RandomSaturation),
    ):
        if strength:
            augmentations.append(augmentation(1 - strength, 1 + strength))
    if node.LIGHTING:
        # Of images in 0-255; the components are those of images in 0-1.
        augmentations.append(T.RandomLighting(255 * node.LIGHTING))
    if fills(cfg):
        return [FilledWithIgnored(augmentations, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)]
    return augmentations


def fills(cfg: CfgNode) -> bool:
    """Whether images get parts that show nothing, and objects lose some of theirs."""
    node = cfg.MUTUALNET.AUGMENTATION
    return bool(node.SCALE or node.ROTATION)


class ScaleJitter(T.Augmentation):
    """
    Large-scale jitter (arXiv 2012.07177): the image at a random scale, in a frame of the size that
    it is usually trained at. What is larger is cropped at random, what is smaller filled up to the
    right and below.

    Args:
        scales: smallest and largest; at 1 it is as large as usual.
        resolution: short side of the frame, in px.
        max_size: the most that its long side may have; the short one becomes smaller for it.
        filling: the value of filled pixels.
    """

    def __init__(
        self, scales: Sequence[float], resolution: int, max_size: int, filling: float
    ) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> TransformList:
        height, width = image.shape[:2]
        frame = resized_shape(height, width, self.resolution, self.max_size)
        scale = np.random.uniform(*self.scales)
        rows, columns = (max(round(side * scale), 1) for side in frame)
        kept = min(rows, frame[0]), min(columns, frame[1])
        top, left = np.random.randint(rows - kept[0] + 1), np.random.randint(columns - kept[1] + 1)
        below, right = frame[0] - kept[0], frame[1] - kept[1]
        return TransformList(
            [
                T.ResizeTransform(height, width, rows, columns),
                CropTransform(left, top, kept[1], kept[0], columns, rows),
                PadTransform(0, 0, right, below, kept[1], kept[0], self.filling),
            ]
        )


class FilledWithIgnored(T.AugmentationList):
    """
    Augmentations after which the class of a filled pixel is the ignored one.

    They fill the map of classes with 0, as they do the masks of objects, for which it is right. So
    the ignored class is 0 while they are at work.

    Args:
        augmentations: in their order.
        ignore_value: the ignored class, from 0 to 255.
    """

    def __init__(self, augmentations: list[T.Augmentation], ignore_value: int) -> None:
        super().__init__(augmentations)
        self._ignored = np.uint8(ignore_value)

    def __call__(self, aug_input: T.AugInput) -> TransformList:
        if aug_input.sem_seg is not None:
            aug_input.sem_seg = aug_input.sem_seg - self._ignored  # modulo 256
        transforms = super().__call__(aug_input)
        if aug_input.sem_seg is not None:
            aug_input.sem_seg = aug_input.sem_seg + self._ignored
        return transforms
