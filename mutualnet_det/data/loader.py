"""The training loader: images in the sampler's order, augmented by the seeds it hands out."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data.build import trivial_batch_collator
from detectron2.data.common import DatasetFromList
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from ..building import explaining_config
from ..errors import UserError
from ..family import Family, family
from ..signals import leave_stop_signals
from .augmentation import augmented, fills
from .classification import ClassificationMapper
from .faults import DatasetError
from .pixels import check_file
from .records import training_records
from .sampler import TrainingBatchSampler, repeat_factors
from .semantic import SemanticMapper

logger = logging.getLogger(__name__)


class LoaderError(UserError, RuntimeError):
    """A process that reads images has ended."""


@contextmanager
def explaining_worker_deaths() -> Iterator[None]:
    """LoaderError, with what to do, where PyTorch notices a dead worker: anywhere in a step."""
    try:
        yield
    except RuntimeError as error:
        # What was interrupted, such as writing a file, may have failed for it in its own way.
        death: BaseException | None = error
        while death is not None and "DataLoader worker" not in str(death):
            death = death.__context__
        if death is None:
            raise
        raise LoaderError(
            f"{str(death).splitlines()[0].rstrip()} If it was killed, memory has most likely run "
            "out: fewer DATALOADER.NUM_WORKERS need less. If it was a bus error, shared memory "
            "has: give a container more of it (--shm-size). Add --resume to continue."
        ) from error


class CheckedMapper(DatasetMapper):
    """
    Detectron2's mapper with the augmentations of ``MUTUALNET.AUGMENTATION``.

    It would clip pixels of more than 8 bits: PixelError for these.
    """

    recompute_boxes: bool

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        args = super().from_config(cfg, is_train)
        args["augmentations"] = augmented(cfg, args["augmentations"])
        # Around what is left of a mask.
        args["recompute_boxes"] |= cfg.MODEL.MASK_ON and fills(cfg)
        return args

    def _transform_annotations(self, dataset_dict: dict, *args: Any) -> None:
        recomputes = self.recompute_boxes
        # Detectron2 would look for the masks of an image without objects, which has none.
        self.recompute_boxes &= any(not x.get("iscrowd", 0) for x in dataset_dict["annotations"])
        try:
            super()._transform_annotations(dataset_dict, *args)
        finally:
            self.recompute_boxes = recomputes

    def __call__(self, dataset_dict: dict) -> dict:
        check_file(dataset_dict["file_name"])
        return super().__call__(dataset_dict)


class SeededMapper:
    """A mapper, Detectron2's or another, with randomness that depends on a seed alone."""

    def __init__(self, mapper: Callable[[dict], dict]) -> None:
        self._mapper = mapper

    def __call__(self, record: dict, seed: int) -> dict:
        """
        Args:
            record: in Detectron2's data set format.
            seed: of this image's augmentation.

        Raises:
            DatasetError: naming the file that cannot be read.
        """
        states = np.random.get_state(), random.getstate()
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            with torch.random.fork_rng(devices=[]):  # torchvision's transforms draw from torch
                torch.manual_seed(seed)
                return self._mapper(record)
        except Exception as error:
            raise DatasetError(f"Cannot use {record['file_name']}: {error}") from error
        finally:
            np.random.set_state(states[0])
            random.setstate(states[1])


class TrainingImages(Dataset):
    """
    Images by (index, seed).

    Args:
        records: in Detectron2's data set format.
        mapper: makes a training input of a record and a seed; DatasetError if it cannot.
        skips: take the next image for one that cannot be used, and list its file in the input's
            "skipped".

    Items are inputs with "skipped" beside, or the DatasetError to be raised: raised in a worker,
    the worker's traceback would bury it.
    """

    def __init__(self, records: DatasetFromList, mapper: SeededMapper, skips: bool) -> None:
        self._records = records
        self._mapper = mapper
        self._skips = skips

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any] | DatasetError:
        index, seed = key
        skipped: list[str] = []
        last_error = None
        for step in range(len(self)):
            record = self._records[(index + step) % len(self)]
            try:
                item = self._mapper(record, seed)
            except DatasetError as error:
                if not self._skips:
                    return error
                skipped.append(record["file_name"])
                last_error = error
            else:
                item["skipped"] = skipped
                return item
        return DatasetError(
            f"None of the {len(self)} training images can be used. The last one: {last_error}"
        )


def _objects_mapper(cfg: CfgNode) -> Callable[[dict], dict]:
    return CheckedMapper(cfg, is_train=True)


def _pixels_mapper(cfg: CfgNode) -> Callable[[dict], dict]:
    head = cfg.MODEL.SEM_SEG_HEAD
    return SemanticMapper(_objects_mapper(cfg), head.NUM_CLASSES, head.IGNORE_VALUE)


def _stack(items: list) -> tuple[torch.Tensor, list[dict[str, Any]]] | list:
    """The images of a batch as one tensor: each tensor that a worker sends takes an open file."""
    if any(isinstance(item, DatasetError) for item in items):
        return items
    return torch.stack([item.pop("image") for item in items]), items


class Inputs(NamedTuple):
    """
    The parts that make training inputs.

    Attributes:
        mapper: of a config, what makes an input of a record.
        collate: makes a batch of inputs, or of the DatasetErrors in their place.
        classes: of a record, those to learn from; None where records do not tell.
    """

    mapper: Callable[[CfgNode], Callable[[dict], dict]]
    collate: Callable[[list], Any]
    classes: Callable[[dict], set[int]] | None


def _class_of_image(record: dict) -> set[int]:
    return {record["label"]}


def _classes_of_objects(record: dict) -> set[int]:
    return {obj["category_id"] for obj in record["annotations"] if not obj.get("iscrowd", 0)}


INPUTS = {
    Family.CLASSIFIER: Inputs(ClassificationMapper, _stack, _class_of_image),
    Family.SEMANTIC: Inputs(_pixels_mapper, trivial_batch_collator, None),
    Family.PANOPTIC: Inputs(_pixels_mapper, trivial_batch_collator, _classes_of_objects),
    Family.RCNN: Inputs(_objects_mapper, trivial_batch_collator, _classes_of_objects),
    Family.DENSE: Inputs(_objects_mapper, trivial_batch_collator, _classes_of_objects),
}


def _repeats(cfg: CfgNode, records: list[dict[str, Any]]) -> np.ndarray | None:
    """How often each image is seen in an epoch, if ``DATALOADER.SAMPLER_TRAIN`` says more of it."""
    classes = INPUTS[family(cfg)].classes
    if cfg.DATALOADER.SAMPLER_TRAIN != "RepeatFactorTrainingSampler" or classes is None:
        return None
    repeats = repeat_factors(list(map(classes, records)), cfg.DATALOADER.REPEAT_THRESHOLD)
    logger.info(
        "Images of classes on less than %g of the %d images are repeated: %d of them, up to %.1f "
        "times; an epoch has %d images.",
        *(cfg.DATALOADER.REPEAT_THRESHOLD, len(records), (repeats > 1).sum(), repeats.max()),
        repeats.sum(),
    )
    return repeats


def build_training_loader(cfg: CfgNode, seed: int, start: int) -> Iterator[list[dict[str, Any]]]:
    """
    Endless batches from iteration ``start`` on, the same whatever ``DATALOADER.NUM_WORKERS``.

    Yields this rank's share of a batch: Detectron2's training inputs, or those of
    :class:`~mutualnet_det.data.classification.ClassificationMapper`, each with "skipped" beside,
    the files in whose place it stands. DatasetError, naming the file, if an image cannot be used
    and ``MUTUALNET.BAD_RECORDS`` is "error".
    """
    records = training_records(cfg)
    sampler = TrainingBatchSampler(
        # Records without a size: square crops of classification, Detectron2's own semantic sets.
        [record.get("width", 0) > record.get("height", 0) for record in records],
        cfg.SOLVER.IMS_PER_BATCH,
        seed,
        start,
        comm.get_rank(),
        comm.get_world_size(),
        _repeats(cfg, records),
    )
    inputs = INPUTS[family(cfg)]
    with explaining_config("the augmentation"):
        mapper = inputs.mapper(cfg)
    loader = DataLoader(
        TrainingImages(
            DatasetFromList(records, copy=False),
            SeededMapper(mapper),
            skips=cfg.MUTUALNET.BAD_RECORDS == "skip",
        ),
        batch_sampler=sampler,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=inputs.collate,
        worker_init_fn=leave_stop_signals,
    )
    return _raising(loader)


def _raising(batches: Iterable) -> Iterator[list[dict[str, Any]]]:
    for batch in batches:
        if isinstance(batch, tuple):
            images, items = batch
            batch = [{"image": image, **item} for image, item in zip(images, items, strict=True)]
        for item in batch:
            if isinstance(item, DatasetError):
                raise item
        yield batch
