"""What the demo and the page know of a model: that it finds objects, images to try it on."""

import pytest
from PIL import Image

from mutualnet_det.config import load_config
from mutualnet_det.runtime import PredictorError
from mutualnet_det.runtime.demo import check_finds_objects, example_images


@pytest.fixture
def cfg(tmp_path):
    """A config of a data set whose images are there."""
    (tmp_path / "photos").mkdir()
    for number in range(10):
        Image.new("RGB", (4, 4)).save(tmp_path / f"photos/{number}.jpg")
    (tmp_path / "photos/notes.txt").write_text("")
    cfg = load_config("configs/mutual_maskrcnn_mbv2.yaml").clone()
    cfg.defrost()
    cfg.DATASETS.COCO_FORMAT = [["zoo", str(tmp_path / "photos.json"), str(tmp_path / "photos")]]
    cfg.DATASETS.TEST = ("zoo",)
    return cfg


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
