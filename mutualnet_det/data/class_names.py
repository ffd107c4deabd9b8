"""Names of the classes: those that data sets have must be those that a model has learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from tabulate import tabulate

from ..family import outputs
from .faults import DatasetError, examples

# What the metadata of a data set names, by the output of a network that goes by these names.
NAMED = {
    "class": "classes",
    "box": "thing_classes",
    "keypoint": "keypoint_names",
    "semantic": "stuff_classes",
}
# What they are called, where that is not just "classes".
WORDS = {"keypoint_names": "keypoints", "stuff_classes": "classes of pixels"}
# How many are shown; a list of LVIS has 1203.
MAX_SHOWN = 12

# Names in the order of their numbers, by their key in a data set's metadata.
ClassNames = Mapping[str, Sequence[str]]


def class_names(cfg: CfgNode) -> dict[str, list[str]]:
    """
    The names that a config's network goes by: those of the first of ``DATASETS.TRAIN`` and
    ``DATASETS.TEST`` whose metadata tells them. What none tells is absent.
    """
    names: dict[str, list[str]] = {}
    for dataset in [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]:
        for key, value in dataset_names(cfg, dataset).items():
            names.setdefault(key, value)
    return names


def dataset_names(cfg: CfgNode, dataset: str) -> dict[str, list[str]]:
    """The names in a data set's metadata that a config's network goes by."""
    metadata = MetadataCatalog.get(dataset)
    keys = [NAMED[output] for output in outputs(cfg) if output in NAMED]
    return {key: list(metadata.get(key)) for key in keys if metadata.get(key)}


def check_same_classes(
    expected: ClassNames, owner: str, names: ClassNames, dataset: str, advice: str = ""
) -> None:
    """
    Check that two lists of names are one; where either is unknown, there is nothing to compare.

    Args:
        owner: whose the ``expected`` names are, for people.
        dataset: that has the other ones.
        advice: what else may be done.

    Raises:
        DatasetError: with both lists side by side where they differ, and what to do about it.
    """
    for key, wanted in expected.items():
        given = names.get(key, wanted)
        if list(given) != list(wanted):
            raise DatasetError(
                f"The {WORDS.get(key, 'classes')} of {dataset} ({len(given)}) are not those of "
                f"{owner} ({len(wanted)}), and a model has one name for each number.\n\n"
                f"{_side_by_side(wanted, owner, given, dataset)}\n\n"
                f"{_difference(key, wanted, owner, given, dataset)}{advice}"
            )


def check_datasets_agree(cfg: CfgNode) -> None:
    """DatasetError unless all of ``DATASETS.TRAIN`` and ``DATASETS.TEST`` have the same classes."""
    first: dict[str, tuple[str, list[str]]] = {}
    for dataset in dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]):
        for key, names in dataset_names(cfg, dataset).items():
            owner, expected = first.setdefault(key, (dataset, names))
            check_same_classes({key: expected}, repr(owner), {key: names}, repr(dataset))


def quoted(names: Sequence[str]) -> str:
    """The first few names for people, in quotes."""
    return examples(map(repr, names))


def _side_by_side(a: Sequence[str], owner: str, b: Sequence[str], dataset: str) -> str:
    rows = [
        (number, *(names[number] if number < len(names) else "-" for names in (a, b)))
        for number in range(max(len(a), len(b)))
        if a[number : number + 1] != b[number : number + 1]
    ]
    table = tabulate(rows[:MAX_SHOWN], ("number", owner, dataset), disable_numparse=True)
    return table + (f"\n... and {len(rows) - MAX_SHOWN} more" if len(rows) > MAX_SHOWN else "")


def _difference(key: str, a: Sequence[str], owner: str, b: Sequence[str], dataset: str) -> str:
    only_a = [name for name in a if name not in b]
    only_b = [name for name in b if name not in a]
    if only_a and only_b:
        return (
            f"Only {owner} has {quoted(only_a)}, only {dataset} has {quoted(only_b)}. If "
            "these are the same under other names, rename them."
        )
    for lacking, missing in ((dataset, only_a), (owner, only_b)):
        if missing:
            remedy = (
                "Each class needs a folder of images there too."
                if key == "classes"
                else "Add what is missing to its categories: a category needs no objects."
            )
            return f"{lacking} lacks {quoted(missing)}. {remedy}"
    return (
        "They are the same in another order. Categories are numbered in the order of their ids: "
        "give each name the same id everywhere, in the categories and in the annotations."
    )
