"""
Image classification: folders of classes, CIFAR's own files, and what a training image goes through.

A record is ``{"file_name", "label"}``; of CIFAR also ``"row"``, the image's place in the file.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from torch import Tensor
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension
from torchvision.transforms import functional as TF

from ..safe_pickle import load_pickle
from .class_names import check_datasets_agree, class_names
from .class_summary import ImagesSummary, summarise_images
from .coco_check import check_declaration
from .faults import DatasetError, examples, shortened
from .image_faults import with_usable_images
from .pixels import check_file
from .views import resize_image

EVALUATOR = "classification"
# By data set: files in its folder by their suffixes, and images beside the classes' folders, that
# are left out.
_ignored: dict[str, tuple[Counter[str], list[str]]] = {}
_summaries: dict[str, ImagesSummary] = {}

# Principal components of ImageNet's RGB values in 0-1: the standard deviations along them and their
# directions (Krizhevsky et al., NIPS 2012, section 4.1; the values of the fb.resnet.torch recipe).
LIGHTING_DEVIATIONS = (0.2175, 0.0188, 0.0045)
LIGHTING_DIRECTIONS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


# Data sets ---------------------------------------------------------------------------------------


def register_image_folder(name: str, folder: str, *, generate=None) -> None:
    """
    Register a folder with one subfolder of images per class; the same again does nothing.

    Args:
        generate: makes the files if they are not there; called before they are first read.

    Raises:
        DatasetError: if the name is taken by another data set.
    """
    _register(name, folder, functools.partial(_folder_records, name), generate)


def register_cifar(name: str, folder: str, split: str) -> None:
    """
    Register CIFAR-10 or CIFAR-100 in their files for Python.

    Args:
        folder: the unpacked ``cifar-10-batches-py`` or ``cifar-100-python``.
        split: "train" or "test".
    """
    _register(name, folder, functools.partial(_cifar_records, name, split), None)


def _register(name: str, folder: str, load, generate) -> None:
    if name in DatasetCatalog:
        taken = MetadataCatalog.get(name).get("image_folder")
        if taken != folder:
            raise DatasetError(f"The data set name {name!r} is taken; choose another for {folder}.")
        return
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(image_folder=folder, evaluator_type=EVALUATOR, generate=generate)


def register_builtin(root: str) -> None:
    """Register ImageNet and CIFAR where they usually lie below ``root``."""
    for split in ("train", "val"):
        register_image_folder(f"imagenet_{split}", os.path.join(root, "imagenet", split))
    for split in ("train", "test"):
        for name, folder in (("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")):
            register_cifar(f"{name}_{split}", os.path.join(root, folder), split)


def register_image_folders(declarations: Sequence[Sequence[str]]) -> None:
    """Register the data sets of ``DATASETS.IMAGE_FOLDERS``: [name, folder] each."""
    for index, entry in enumerate(declarations):
        check_declaration(f"DATASETS.IMAGE_FOLDERS[{index}]", entry, ("name", "folder"))
        register_image_folder(*entry)


def image_folder(cfg: CfgNode, name: str) -> str:
    """
    The folder of a data set; registers what ``DATASETS.IMAGE_FOLDERS`` declares.

    Raises:
        DatasetError: for an unknown name, or a data set for something else.
    """
    register_image_folders(cfg.DATASETS.IMAGE_FOLDERS)
    if name not in DatasetCatalog:
        raise DatasetError(
            f"DATASETS names {name!r}, and there is no such data set. Declare a folder with "
            "one subfolder per class in DATASETS.IMAGE_FOLDERS as [name, folder]."
        )
    if MetadataCatalog.get(name).get("evaluator_type") != EVALUATOR:
        raise DatasetError(
            f"The data set {name!r} is not one for classification. Declare a folder with one "
            "subfolder per class in DATASETS.IMAGE_FOLDERS as [name, folder]."
        )
    return MetadataCatalog.get(name).image_folder


def load_classification_records(cfg: CfgNode, name: str) -> list[dict]:
    """
    The records of a data set; its ``MetadataCatalog`` then has ``classes``, the names by label.

    Registers what ``DATASETS.IMAGE_FOLDERS`` declares.

    Raises:
        UserError: for an unknown name, a folder that is not there or holds no classes, a class
            without images, or a CIFAR file that is missing or damaged.
    """
    image_folder(cfg, name)
    records = DatasetCatalog.get(name)
    return with_usable_images(records) if cfg.MUTUALNET.BAD_RECORDS == "skip" else records


def images_summary(
    name: str, records: Sequence[dict], unusable: Collection[int] = ()
) -> ImagesSummary:
    """
    What a data set holds.

    Args:
        records: all that its catalog gives.
        unusable: the places among them of those whose files cannot be used.
    """
    by_suffix, outside = _ignored.get(name, (Counter(), []))
    ignored = []
    if by_suffix:
        kinds = examples(f"{count} {suffix}" for suffix, count in by_suffix.most_common())
        ignored.append(f"left out: files whose names are not of images: {kinds}")
    if outside:
        ignored.append(f"left out: images outside the folders of classes: {examples(outside)}")
    classes = MetadataCatalog.get(name).classes
    return summarise_images(name, records, classes, ignored, unusable)


def training_tables(cfg: CfgNode) -> list[str]:
    """What each of ``DATASETS.TRAIN`` holds, after :func:`check_classification_datasets`."""
    return [str(_summaries[name]) for name in dict.fromkeys(cfg.DATASETS.TRAIN)]


def check_classification_datasets(cfg: CfgNode) -> None:
    """
    Check all of ``DATASETS.TRAIN`` and ``DATASETS.TEST``, before any long work.

    Raises:
        DatasetError: see :func:`load_classification_records`; also for data sets whose classes
            differ, and for another number of them than ``MODEL.BACKBONE.NUM_CLASSES``.
    """
    for name in dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]):
        _summaries[name] = images_summary(name, load_classification_records(cfg, name))
    check_datasets_agree(cfg)
    classes = class_names(cfg)["classes"]
    if len(classes) != cfg.MODEL.BACKBONE.NUM_CLASSES:
        raise DatasetError(
            f"DATASETS.TRAIN and TEST have {len(classes)} classes ({shortened(classes)}), but "
            f"MODEL.BACKBONE.NUM_CLASSES is {cfg.MODEL.BACKBONE.NUM_CLASSES}. Set it to "
            f"{len(classes)}."
        )


def _folder(name: str) -> str:
    metadata = MetadataCatalog.get(name)
    if metadata.get("generate") is not None:
        metadata.generate()
    if not os.path.isdir(metadata.image_folder):
        raise DatasetError(
            f"The data set {name!r} is not there: no folder "
            f"{os.path.abspath(metadata.image_folder)}. Data sets with names of their own lie in "
            "the folder that the environment variable DETECTRON2_DATASETS names; others are "
            "declared in DATASETS.IMAGE_FOLDERS."
        )
    return metadata.image_folder


def _folder_records(name: str) -> list[dict]:
    folder = _folder(name)
    ignored: Counter[str] = Counter()

    def is_image(path: str) -> bool:
        if has_file_allowed_extension(path, IMG_EXTENSIONS):
            return True
        ignored[Path(path).suffix or Path(path).name] += 1
        return False

    try:
        images = ImageFolder(folder, is_valid_file=is_image)
    except FileNotFoundError as error:  # no class, or a class without images, which it names
        kinds = f"Images are {', '.join(IMG_EXTENSIONS)}."
        raise DatasetError(f"The data set {name!r} in {folder}: {error} {kinds}") from error
    outside = [p.name for p in Path(folder).iterdir() if p.is_file() and is_image(str(p))]
    _ignored[name] = ignored, outside
    MetadataCatalog.get(name).classes = images.classes
    return [{"file_name": path, "label": label} for path, label in images.samples]


def _cifar_records(name: str, split: str) -> list[dict]:
    folder = Path(_folder(name))
    hundred = (folder / "meta").is_file()
    meta_file = str(folder / ("meta" if hundred else "batches.meta"))
    names = _read_cifar(meta_file).get("fine_label_names" if hundred else "label_names")
    if not isinstance(names, list):
        raise DatasetError(f"{meta_file} is not a file of CIFAR: it has no names of the classes.")
    files = [split] if hundred else [f"{split}_batch"]
    if not hundred and split == "train":
        files = [f"data_batch_{number}" for number in range(1, 6)]
    key = "fine_labels" if hundred else "labels"
    records = []
    for file in files:
        path = str(folder / file)
        content = _read_cifar(path)
        if key not in content or np.shape(content.get("data")) != (len(content[key]), 3072):
            raise DatasetError(f"{path} is not a file of CIFAR: no (N, 3072) data with {key!r}.")
        if not all(0 <= label < len(names) for label in content[key]):
            raise DatasetError(f"{path} has labels outside its {len(names)} classes.")
        records += [
            {"file_name": path, "row": row, "label": int(label)}
            for row, label in enumerate(content[key])
        ]
    MetadataCatalog.get(name).classes = names
    return records


@functools.lru_cache(maxsize=8)
def _read_cifar(path: str) -> dict:
    """The content of one of CIFAR's pickles, read without running code from it."""
    content = load_pickle(path, encoding="latin1")
    if not isinstance(content, dict):
        raise DatasetError(f"{path} is not a file of CIFAR: it holds a {type(content).__name__}.")
    return content


# Images ------------------------------------------------------------------------------------------


def read_classification_image(record: dict, image_format: str) -> np.ndarray:
    """The image (H, W, 3) of a record, in uint8; PixelError for one of more than 8 bits."""
    if "row" not in record:
        check_file(record["file_name"])
        return read_image(record["file_name"], format=image_format)
    pixels = _read_cifar(record["file_name"])["data"][record["row"]]
    image = pixels.reshape(3, 32, 32).transpose(1, 2, 0)
    return image if image_format == "RGB" else image[..., ::-1]


def evaluation_images(
    cfg: CfgNode, images: Sequence[np.ndarray], resolution: int
) -> Iterator[Tensor]:
    """
    Views that evaluation has of images (H, W, 3): their middle, as (3, R, R) in float, 0-255.

    The crop keeps ``CLASSIFICATION.TEST_CROP`` of the short side. It is resized to the largest
    resolution and from there to R, as the views of a training image are.
    """
    side = cfg.MUTUALNET.RESOLUTIONS[0]
    for image in images:
        pixels = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        keep = max(1, round(min(pixels.shape[1:]) * cfg.MUTUALNET.CLASSIFICATION.TEST_CROP))
        largest = resize_image(TF.center_crop(pixels, [keep, keep]), (side, side))
        yield resize_image(largest, (resolution, resolution))


# By INPUT.RANDOM_FLIP.
FLIPS = {
    "horizontal": [transforms.RandomHorizontalFlip()],
    "vertical": [transforms.RandomVerticalFlip()],
    "none": [],
}


class ClassificationMapper:
    """
    Makes a training input of a record: a random crop, flipped or not, with the colours varied.

    Args:
        cfg: a classification config.

    The input is {"image": (3, S, S), "label", "file_name"}, where S is the largest resolution; the
    image is in units of 0-255.
    """

    def __init__(self, cfg: CfgNode) -> None:
        node = cfg.MUTUALNET.CLASSIFICATION
        side = cfg.MUTUALNET.RESOLUTIONS[0]
        self._format = cfg.INPUT.FORMAT
        if node.PADDING:
            crop = [
                transforms.Resize([side, side], antialias=True),
                transforms.RandomCrop(side, padding=node.PADDING),
            ]
        else:
            crop = [transforms.RandomResizedCrop(side, tuple(node.CROP_SCALE), antialias=True)]
        steps = [*crop, *FLIPS[cfg.INPUT.RANDOM_FLIP]]
        if node.COLOR_JITTER:
            strength = node.COLOR_JITTER
            steps.append(transforms.ColorJitter(strength, strength, strength))
        if node.LIGHTING:
            steps.append(Lighting(node.LIGHTING))
        self._transform = transforms.Compose(steps)

    def __call__(self, record: dict) -> dict:
        # Saturation and lighting know channels by their colour.
        image = read_classification_image(record, "RGB")
        pixels = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        seen = self._transform(pixels)
        return {
            "image": seen if self._format == "RGB" else seen.flip(0),
            "label": record["label"],
            "file_name": record["file_name"],
        }


class Lighting:
    """
    Shift all pixels along the principal components of ImageNet's colours (Krizhevsky et al., NIPS
    2012, section 4.1), each by a normal deviate times ``strength`` times its standard deviation.

    Input (3, H, W), RGB in 0-255; output the same in float.
    """

    def __init__(self, strength: float) -> None:
        self._scale = strength * torch.tensor(LIGHTING_DEVIATIONS)
        self._directions = torch.tensor(LIGHTING_DIRECTIONS)

    def __call__(self, image: Tensor) -> Tensor:
        shift = self._directions @ (self._scale * torch.randn(3))
        return (image.float() + 255 * shift.view(3, 1, 1)).clamp(0, 255)
