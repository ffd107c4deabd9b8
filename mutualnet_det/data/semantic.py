"""Semantic ground truth: checked as a data set before any long work, and as each mask is read."""

from __future__ import annotations

from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from .faults import DatasetError


def check_semantic(cfg: CfgNode, name: str) -> list[dict]:
    """
    Check that a registered data set gives the semantic head what it learns from.

    A generated one is made if it is not there.

    Returns:
        its records.

    Raises:
        DatasetError: naming the data set, if its files are missing, an image has no semantic
            ground truth, or its classes or ignored label are not those in ``MODEL.SEM_SEG_HEAD``.
    """
    try:
        records = DatasetCatalog.get(name)
    except (OSError, AssertionError) as error:  # Detectron2 asserts that it finds files
        raise DatasetError(
            f"The data set {name!r} is not there: {error} Detectron2's own data sets lie in the "
            "folder that the environment variable DETECTRON2_DATASETS names ('./datasets' if it "
            "is not set)."
        ) from error
    bare = [record["file_name"] for record in records if "sem_seg_file_name" not in record]
    if bare:
        raise DatasetError(
            f"The data set {name!r} has no semantic ground truth: {len(bare)} of {len(records)} "
            f"images are without a sem_seg_file_name, {bare[0]} first."
        )
    head, metadata = cfg.MODEL.SEM_SEG_HEAD, MetadataCatalog.get(name)
    classes = metadata.get("stuff_classes")
    if classes is not None and len(classes) != head.NUM_CLASSES:
        raise DatasetError(
            f"The data set {name!r} has {len(classes)} classes ({', '.join(classes[:10])}"
            f"{', ...' if len(classes) > 10 else ''}), but MODEL.SEM_SEG_HEAD.NUM_CLASSES is "
            f"{head.NUM_CLASSES}. Set it to {len(classes)}."
        )
    ignored = metadata.get("ignore_label", head.IGNORE_VALUE)
    if ignored != head.IGNORE_VALUE:
        raise DatasetError(
            f"The data set {name!r} marks pixels without a class by {ignored}, but "
            f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {head.IGNORE_VALUE}. Set it to {ignored}."
        )
    return records


class SemanticMapper:
    """
    A mapper that refuses classes the head does not have; on a GPU they would end the program.

    Args:
        mapper: Detectron2's, or another that gives "sem_seg" (H, W).
        num_classes, ignore_value: of the head.
    """

    def __init__(self, mapper: Callable[[dict], dict], num_classes: int, ignore_value: int) -> None:
        self._mapper = mapper
        self._num_classes = num_classes
        self._ignore_value = ignore_value

    def __call__(self, record: dict) -> dict:
        """ValueError, naming the mask, for a class outside 0 to ``num_classes`` - 1."""
        item = self._mapper(record)
        labels = item["sem_seg"]
        wrong = labels[(labels >= self._num_classes) & (labels != self._ignore_value)]
        if len(wrong):
            raise ValueError(
                f"its mask {record['sem_seg_file_name']} holds the class {int(wrong[0])}; expected "
                f"0 to {self._num_classes - 1} (MODEL.SEM_SEG_HEAD.NUM_CLASSES is "
                f"{self._num_classes}), or {self._ignore_value} for none."
            )
        return item
