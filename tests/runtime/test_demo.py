"""What the demo and the page know of a model: class names, images to try it on."""

import json

import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from mutualnet_det.config import load_config
from mutualnet_det.runtime import PredictorError
from mutualnet_det.runtime.demo import check_finds_objects, class_names, example_images


@pytest.fixture
def cfg(tmp_path):
    """Of a data set whose files are all there, with ids out of order."""
    (tmp_path / "photos").mkdir()
    for number in range(10):
        Image.new("RGB", (4, 4)).save(tmp_path / f"photos/{number}.jpg")
    (tmp_path / "photos/notes.txt").write_text("")
    categories = [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}]
    (tmp_path / "photos.json").write_text(json.dumps({"categories": categories}))
    cfg = load_config("configs/mutual_maskrcnn_mbv2.yaml").clone()
    cfg.defrost()
    cfg.DATASETS.COCO_FORMAT = [["zoo", str(tmp_path / "photos.json"), str(tmp_path / "photos")]]
    cfg.DATASETS.TEST = ("zoo",)
    return cfg


def test_class_names_of_a_declared_data_set(cfg, tmp_path):
    assert class_names(cfg, tmp_path) == ["cat", "dog"]


def test_class_names_of_the_evaluation(cfg, tmp_path):
    """They travel with the folder, whatever became of the data set."""
    (tmp_path / "photos.json").unlink()
    (tmp_path / "grid").mkdir()
    categories = [{"id": 1, "name": "lion"}, {"id": 0, "name": "ape"}]
    (tmp_path / "grid/ground_truth.json").write_text(json.dumps({"categories": categories}))
    assert class_names(cfg, tmp_path) == ["ape", "lion"]


def test_class_names_that_detectron2_knows(cfg, tmp_path):
    cfg.DATASETS.TEST = ("coco_2017_val",)
    expected = MetadataCatalog.get("coco_2017_val").thing_classes
    assert class_names(cfg, tmp_path) == expected and expected[:2] == ["person", "bicycle"]
    cfg.DATASETS.TEST = ("shapes_val",)
    assert class_names(cfg, tmp_path) == ["circle", "square", "triangle"]


def test_no_class_names(cfg, tmp_path):
    (tmp_path / "photos.json").unlink()
    assert class_names(cfg, tmp_path) == []
    cfg.DATASETS.TEST = ()
    assert class_names(cfg, tmp_path) == []


def test_example_images_are_spread_over_the_test_set(cfg, tmp_path):
    assert [path.stem for path in example_images(cfg, 4)] == ["0", "3", "6", "9"]
    assert len(example_images(cfg, 20)) == 10
    for test in ("gone",), ():
        cfg.DATASETS.TEST = test
        assert example_images(cfg, 4) == []


def test_a_model_that_finds_no_objects_is_refused(cfg):
    check_finds_objects(cfg)
    for name in ("mutual_semantic_fpn_mbv2", "pretrain_shapes"):
        with pytest.raises(PredictorError, match="finds no objects"):
            check_finds_objects(load_config(f"configs/{name}.yaml"))
