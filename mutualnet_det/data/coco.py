"""COCO-format data sets: declared in the config, registered with Detectron2, loaded, scored on."""

from __future__ import annotations

import difflib
import json
import math
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from pycocotools import mask as mask_util

from ..family import OBJECT_HEADS, family, outputs
from .class_names import check_datasets_agree, class_names
from .coco_check import CheckedCoco, by_class, check_coco_format, check_declaration
from .converting import converted, is_converted
from .faults import DatasetError, shortened
from .flags import read_flag
from .image_faults import check_images, unusable_files, with_usable_images
from .keypoints import check_keypoints
from .masks import run_lengths
from .semantic import check_semantic
from .summary import DatasetSummary, summarise

__all__ = [
    "CheckedCoco",
    "check_coco_format",
    "check_datasets",
    "load_checked_coco",
    "load_records",
    "register_coco",
    "register_coco_format",
    "renumbered_ground_truth",
]


# Declaring ---------------------------------------------------------------------------------------


def register_coco_format(declarations: Sequence[Sequence[str]]) -> None:
    """
    Register the data sets of ``DATASETS.COCO_FORMAT``: [name, JSON file, image folder] each.

    Paths are relative to the current directory. Declaring the same again does nothing.

    Raises:
        DatasetError: naming the entry, for anything but three texts, a name that is used twice or
            taken by another data set, or a file or folder that does not exist.
    """
    names: set[str] = set()
    for index, entry in enumerate(declarations):
        key = f"DATASETS.COCO_FORMAT[{index}]"
        check_declaration(key, entry, ("name", "JSON file", "image folder"))
        name, json_file, image_root = entry
        if name in names:
            raise DatasetError(f"{key} declares the name {name!r} a second time.")
        names.add(name)
        for path, exists, what in (
            (json_file, os.path.isfile, "annotation file"),
            (image_root, os.path.isdir, "image folder"),
        ):
            if not exists(path):
                portable = path.replace("\\", "/")
                hint = f" It is there as {portable}." if exists(portable) else ""
                raise DatasetError(
                    f"{key} ({name!r}): there is no {what} {path} (paths are relative to the "
                    f"current directory, {os.getcwd()}).{hint}"
                )
        register_coco(name, json_file, image_root)


def register_coco(
    name: str,
    json_file: str,
    image_root: str,
    *,
    generate: Callable[[], object] | None = None,
    **metadata: object,
) -> None:
    """
    Register one COCO-format data set with Detectron2; the same again does nothing.

    Other Detectron2 programs get it by its name too. They cannot say what to do with bad records,
    so these are left out with a warning, as Detectron2 does.

    Args:
        generate: makes the files if they are not there; called before they are first read.
        metadata: further entries of its ``MetadataCatalog``, e.g. ``thing_classes``.

    Raises:
        DatasetError: if the name is taken by another data set.
    """
    if name in DatasetCatalog:
        taken = MetadataCatalog.get(name)
        existing = (taken.get("json_file"), taken.get("image_root"))
        if existing != (json_file, image_root):
            raise DatasetError(
                f"The data set name {name!r} is taken by {existing[0]} with images in "
                f"{existing[1]}; choose another one for {json_file} with images in {image_root}."
            )
        return

    def load() -> list[dict]:
        return load_checked_coco(name, *_files(name), need_masks=False, bad_records="skip")

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        generate=generate,
        **metadata,
    )


# Using what a config names -----------------------------------------------------------------------


def check_datasets(cfg: CfgNode) -> None:
    """
    Check all of ``DATASETS.TRAIN`` and ``DATASETS.TEST``, before any long work.

    Registers what ``DATASETS.COCO_FORMAT`` declares, makes generated data sets, and completes the
    metadata of all, so that class names are known afterwards. Data sets that are registered by
    code, in no COCO format, are left to that code.

    Raises:
        DatasetError: for an unknown name, missing files, records that cannot be used (see
            ``check_coco_format`` and ``check_images``), or another number of categories than
            the model has classes.
    """
    register_coco_format(cfg.DATASETS.COCO_FORMAT)
    for key in ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            _check_known(name, f"DATASETS.{key}")
    images: dict[str, list[dict]] = {}
    all_checked: dict[str, CheckedCoco] = {}
    for name in dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]):
        if "semantic" in outputs(cfg):
            images[name] = check_semantic(cfg, name)
        if "box" not in outputs(cfg) or not _is_coco(name):
            continue
        json_file, image_root = _files(name)
        training = name in cfg.DATASETS.TRAIN
        checked = _check(name, json_file, image_root, need_instances=training, **_demands(cfg))
        if cfg.MODEL.KEYPOINT_ON:
            check_keypoints(cfg, name, json_file, checked)
        if training and cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon":
            _check_no_rle(json_file, checked)
        all_checked[name] = checked
        images[name] = [
            {**image, "file_name": os.path.join(image_root, image["file_name"])}
            for image in checked.data["images"]
        ]
    # Before their number: where one set lacks a class, another number would not help.
    check_datasets_agree(cfg)
    if "box" in outputs(cfg):
        _check_number(cfg)
    for name, records in images.items():  # last, as it reads all of them
        check_images(name, records, cfg.MUTUALNET.BAD_RECORDS)
    for name, checked in all_checked.items():
        usable = {image["id"] for image in with_usable_images(images[name])}
        unusable = [image["id"] for image in images[name] if image["id"] not in usable]
        _summaries[name] = summarise(name, checked, unusable)


def _check_number(cfg: CfgNode) -> None:
    head = OBJECT_HEADS[family(cfg)]
    expected = cfg.MODEL[head].NUM_CLASSES
    classes = class_names(cfg).get("thing_classes", [])
    if len(classes) not in (0, expected):
        raise DatasetError(
            f"DATASETS.TRAIN and TEST have {len(classes)} categories ({', '.join(classes[:10])}"
            f"{', ...' if len(classes) > 10 else ''}), but MODEL.{head}.NUM_CLASSES is "
            f"{expected}. Set it to {len(classes)}; categories without objects count too."
        )


def dataset_files(cfg: CfgNode, name: str) -> tuple[str, str]:
    """
    The annotation file and the image folder of a data set in COCO's format.

    Raises:
        DatasetError: for an unknown name, files that are not there, or another format.
    """
    register_coco_format(cfg.DATASETS.COCO_FORMAT)
    _check_known(name, "DATASETS")
    if not _is_coco(name):
        raise DatasetError(f"The data set {name!r} is in no COCO format with objects.")
    return _files(name)


def ground_truth_file(name: str) -> str:
    """
    The JSON file in COCO's format that a registered data set is scored on.

    Raises:
        DatasetError: for a data set that has none.
    """
    json_file = (
        converted(name) if is_converted(name) else MetadataCatalog.get(name).get("json_file")
    )
    if json_file is None:
        raise DatasetError(f"The data set {name!r} of DATASETS.TEST is in no COCO format.")
    return json_file


def load_records(cfg: CfgNode, name: str) -> list[dict]:
    """
    The records of a data set, in Detectron2's format, with bad ones treated as ``cfg`` says.

    Registers what ``DATASETS.COCO_FORMAT`` declares.

    Raises:
        DatasetError: see :func:`load_checked_coco`; also for an unknown name.
    """
    register_coco_format(cfg.DATASETS.COCO_FORMAT)
    _check_known(name, "DATASETS")
    if _is_coco(name):
        records = load_checked_coco(name, *_files(name), **_demands(cfg))
    else:
        records = _with_crowds_read(name, DatasetCatalog.get(name))
    return with_usable_images(records) if cfg.MUTUALNET.BAD_RECORDS == "skip" else records


def left_out_images(name: str) -> list[str]:
    """The files of a data set's images that are left out, where bad records are."""
    by_annotations = _summaries[name].bad.images if name in _summaries else []
    return [*by_annotations, *unusable_files(name)]


def training_tables(cfg: CfgNode) -> list[str]:
    """What each data set of ``DATASETS.TRAIN`` with objects holds, after :func:`check_datasets`."""
    names = dict.fromkeys(cfg.DATASETS.TRAIN)
    return [str(_summaries[name]) for name in names if name in _summaries]


def _with_crowds_read(name: str, records: list[dict]) -> list[dict]:
    for record in records:
        for annotation in record.get("annotations", ()):
            crowd = read_flag(annotation.get("iscrowd"))
            if crowd is None:
                raise DatasetError(
                    f"The data set {name!r} has an annotation of {record['file_name']} whose "
                    f"iscrowd is {annotation['iscrowd']!r}; expected 0 or 1."
                )
            if "iscrowd" in annotation:
                annotation["iscrowd"] = crowd
    return records


def load_checked_coco(
    name: str, json_file: str, image_root: str, *, need_masks: bool, bad_records: str
) -> list[dict]:
    """
    Check a COCO-format data set and load it with Detectron2's ``load_coco_json``.

    Sets ``thing_classes`` and ``thing_dataset_id_to_contiguous_id`` in the metadata of ``name``.

    Returns:
        one record per image in Detectron2's format: file_name, height, width, image_id and
        annotations, each with bbox (XYWH_ABS), category_id from 0 without gaps, iscrowd and
        segmentation.

    Raises:
        DatasetError: see ``check_coco_format``.
    """
    if _stamp(name, json_file, image_root, need_masks) not in _faultless:
        checked = _check(
            name, json_file, image_root, need_masks=need_masks, bad_records=bad_records
        )
        if checked.is_changed:
            with tempfile.TemporaryDirectory() as folder:
                usable_file = os.path.join(folder, os.path.basename(json_file))
                with open(usable_file, "w", encoding="utf-8") as file:
                    file.write(json.dumps(checked.data))  # json.dump takes several times as long
                return load_coco_json(usable_file, image_root, name)
    return load_coco_json(json_file, image_root, name)


# Scoring -----------------------------------------------------------------------------------------


def check_has_objects(name: str, annotations: Iterable[dict]) -> None:
    """DatasetError if there is nothing but crowds to find, with which no detector is scored."""
    if all(annotation.get("iscrowd", 0) for annotation in annotations):
        raise DatasetError(
            f"The data set {name!r} has no objects to find, so there is no AP. Name another one in "
            "DATASETS.TEST; to train without an evaluation, set TEST.EVAL_PERIOD 0."
        )


def renumbered_ground_truth(
    json_file: str, image_ids: Collection[int] | None = None, *, need_masks: bool = False
) -> dict:
    """
    The ground truth to score detections against, as the content of a COCO JSON file.

    Annotation ids count from 1: pycocotools takes a match with id 0 for none. Bad records are left
    out, as with ``MUTUALNET.BAD_RECORDS skip``. Where the file does not say, iscrowd is 0 and the
    area (px^2) is that of the mask, or of the box if there is none; an area that is not above 0
    says nothing.

    Args:
        image_ids: the images to keep; None: all.
        need_masks: whether masks are scored, and annotations without one are left out.
    """
    data = check_coco_format(json_file, None, need_masks=need_masks, bad_records="skip").data
    images = {image["id"]: image for image in data["images"]}
    if image_ids is not None:
        kept = set(image_ids)
        images = {id_: image for id_, image in images.items() if id_ in kept}
    annotations = []
    lengths = [len(annotation.get("keypoints") or ()) for annotation in data["annotations"]]
    num_keypoints = max(lengths, default=0) // 3
    for annotation in data["annotations"]:
        if annotation["image_id"] not in images:
            continue
        annotation = {**annotation, "id": len(annotations) + 1}
        annotation["iscrowd"] = int(annotation.get("iscrowd", 0))
        # Evaluators differ in what else they take for no mask.
        annotation["segmentation"] = annotation.get("segmentation") or []
        if num_keypoints:  # pycocotools asks for both, of crowds too
            points = annotation.get("keypoints") or [0] * 3 * num_keypoints
            annotation["keypoints"] = points
            if not isinstance(annotation.get("num_keypoints"), int):
                annotation["num_keypoints"] = sum(flag > 0 for flag in points[2::3])
        area = annotation.get("area")
        if not isinstance(area, int | float) or not 0 < area < math.inf:
            annotation["area"] = _area(annotation, images[annotation["image_id"]])
        annotations.append(annotation)
    # pycocotools copies "info" into what it loads detections to.
    return {"info": {}, **data, "images": list(images.values()), "annotations": annotations}


def _area(annotation: dict, image: dict) -> float:
    masks = annotation.get("segmentation")
    if not masks:
        return annotation["bbox"][2] * annotation["bbox"][3]
    return float(mask_util.area(run_lengths(masks, image["height"], image["width"])))


# What stands behind a name -----------------------------------------------------------------------


def _is_coco(name: str) -> bool:
    """Tell whether a data set is in COCO's format, as LVIS is, or is converted to it."""
    metadata = MetadataCatalog.get(name)
    in_format = metadata.get("evaluator_type") in ("coco", "lvis")
    return is_converted(name) or (in_format and metadata.get("json_file") is not None)


def _files(name: str) -> tuple[str, str]:
    """JSON file and image folder of a registered data set; both are there."""
    if is_converted(name):
        return converted(name), os.curdir
    metadata = MetadataCatalog.get(name)
    if metadata.get("generate") is not None:
        metadata.generate()
    for path in (metadata.json_file, metadata.image_root):
        if not os.path.exists(path):
            root = os.environ.get("DETECTRON2_DATASETS")
            where = f"{root!r}" if root else "not set, which means './datasets'"
            raise DatasetError(
                f"The data set {name!r} is not there: looked for {os.path.abspath(path)}. "
                "Detectron2's own data sets lie in the folder that the environment variable "
                f"DETECTRON2_DATASETS names (now {where}); others are declared in "
                "DATASETS.COCO_FORMAT."
            )
    return metadata.json_file, metadata.image_root


def _demands(cfg: CfgNode) -> dict:
    return {"need_masks": cfg.MODEL.MASK_ON, "bad_records": cfg.MUTUALNET.BAD_RECORDS}


# Files that were checked and hold no bad record: a large one is not read once more to check it.
_faultless: set[tuple] = set()
_summaries: dict[str, DatasetSummary] = {}


def _stamp(name: str, json_file: str, image_root: str, need_masks: bool) -> tuple | None:
    if not os.path.isfile(json_file):
        return None
    state = os.stat(json_file)
    path = os.path.abspath(json_file)
    return name, path, state.st_mtime_ns, state.st_size, image_root, need_masks


def _check(
    name: str, json_file: str, image_root: str, *, need_masks: bool, **demands: object
) -> CheckedCoco:
    """``check_coco_format``, and the classes put into the metadata of ``name``."""
    stamp = _stamp(name, json_file, image_root, need_masks)
    checked = check_coco_format(json_file, image_root, need_masks=need_masks, **demands)
    _set_classes(name, json_file, checked)
    if not checked.is_changed:
        _faultless.add(stamp)
    return checked


def _set_classes(name: str, json_file: str, checked: CheckedCoco) -> None:
    metadata = MetadataCatalog.get(name)
    known = metadata.get("thing_classes", checked.class_names)
    if metadata.get("evaluator_type") == "lvis" and len(known) == len(checked.class_names):
        # Detectron2 calls a class by the first of its synonyms, LVIS some by others.
        for category, word in zip(by_class(checked.data), known, strict=True):
            category["name"] = word
    if known != checked.class_names:
        raise DatasetError(
            f"The categories of the data set {name!r} are known as {shortened(known)}, but "
            f"{json_file} has {shortened(checked.class_names)}."
        )
    metadata.thing_classes = checked.class_names
    ids = sorted(category["id"] for category in checked.data["categories"])
    metadata.thing_dataset_id_to_contiguous_id = {id_: index for index, id_ in enumerate(ids)}


def _check_no_rle(json_file: str, checked: CheckedCoco) -> None:
    rles = [
        annotation["id"]
        for annotation in checked.data["annotations"]
        if isinstance(annotation.get("segmentation"), dict) and not annotation.get("iscrowd", 0)
    ]
    if rles:
        raise DatasetError(
            f"{json_file} has {len(rles)} objects with RLE masks (the first is annotation "
            f"{rles[0]}), and INPUT.MASK_FORMAT is 'polygon'. Set INPUT.MASK_FORMAT bitmask."
        )


def _check_known(name: str, key: str) -> None:
    if name in DatasetCatalog:
        return
    known = DatasetCatalog.list()
    close = difflib.get_close_matches(name, known)
    known_text = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
    raise DatasetError(
        f"{key} names {name!r}, and there is no such data set. {known_text}Known are the "
        f"{len(known)} in Detectron2's DatasetCatalog; declare your own in DATASETS.COCO_FORMAT as "
        "[name, JSON file, image folder]."
    )
