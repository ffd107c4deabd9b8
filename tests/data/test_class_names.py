"""Names of classes: one list for the data sets of a config, shown side by side where not."""

import re

import pytest
from detectron2.data import MetadataCatalog

from mutualnet_det.data.class_names import check_datasets_agree, check_same_classes, class_names
from mutualnet_det.data.faults import DatasetError

NAMES = ["bus", "car", "dog"]


def message(expected, names, key="thing_classes"):
    with pytest.raises(DatasetError) as error:
        check_same_classes({key: expected}, "'train'", {key: names}, "'val'")
    return str(error.value)


def test_same_or_unknown_names_pass():
    check_same_classes({"thing_classes": NAMES}, "a", {"thing_classes": tuple(NAMES)}, "b")
    check_same_classes({"thing_classes": NAMES}, "a", {}, "b")
    check_same_classes({}, "a", {"thing_classes": NAMES}, "b")
    check_same_classes({"thing_classes": NAMES}, "a", {"stuff_classes": ["sky"]}, "b")


def test_what_differs_is_told_side_by_side():
    text = message(NAMES, ["bus", "dog", "car"])
    assert re.search(r"number +'train' +'val'\n", text)
    assert re.search(r"\n1 +car +dog\n2 +dog +car\n", text) and "bus" not in text
    assert "the same in another order" in text


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["bus", "dog"], r"'val' lacks 'car'\. Add .* a category needs no objects"),
        ([*NAMES, "cow"], r"'train' lacks 'cow'\. Add .* a category needs no objects"),
        (["bus", "Car", "dog"], r"Only 'train' has 'car', only 'val' has 'Car'\. If .*re"),
    ],
)
def test_the_advice_is_of_the_difference(names, expected):
    assert re.search(expected, message(NAMES, names))


def test_a_class_of_images_is_a_folder():
    assert "Each class needs a folder of images" in message(NAMES, NAMES[:2], "classes")


def test_long_lists_are_cut():
    names = [f"class {number}" for number in range(300)]
    text = message(names, names[::-1])
    assert "... and 288 more" in text and len(text) < 1500


@pytest.fixture
def cfg_of(tiny_cfg):
    """A config of data sets whose metadata has these names, in this order."""
    made = []

    def make(*names):
        for number, each in enumerate(names):
            made.append(f"named_{number}")
            MetadataCatalog.get(made[-1]).set(**each)
        tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATASETS.TEST = tuple(made[:-1]), (made[-1],)
        return tiny_cfg

    yield make
    for name in made:
        MetadataCatalog.pop(name)


def test_all_data_sets_of_a_config_agree(cfg_of):
    other = {"thing_classes": NAMES[::-1]}
    cfg = cfg_of(
        {"thing_classes": NAMES, "stuff_classes": ["sky"]}, other, {"thing_classes": NAMES}
    )
    with pytest.raises(DatasetError, match="of 'named_1' .* those of 'named_0'"):
        check_datasets_agree(cfg)
    cfg.DATASETS.TRAIN = ("named_0",)
    check_datasets_agree(cfg)
    # Those of pixels mean nothing to a network that has no output for them.
    assert class_names(cfg) == {"thing_classes": NAMES}


def test_a_data_set_without_names_hides_no_difference(cfg_of):
    cfg = cfg_of({"thing_classes": NAMES}, {}, {"thing_classes": NAMES[::-1]})
    with pytest.raises(DatasetError, match="of 'named_2' .* those of 'named_0'"):
        check_datasets_agree(cfg)
