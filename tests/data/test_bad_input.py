"""Every kind of bad input gets what its page says, and is read in one way by all."""

import json
import os

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from mutualnet_det.config import add_mutualnet_config
from mutualnet_det.data.check import check_datasets, check_test_set
from mutualnet_det.data.coco import load_records, renumbered_ground_truth
from mutualnet_det.data.coco_check import check_coco_format
from mutualnet_det.data.faults import DatasetError

from .bad_input import ACCEPTED, ERROR, KINDS, LINE, page, sound


@pytest.fixture
def catalogs():
    """What a test registers is forgotten after it."""
    before = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    yield
    DatasetCatalog.data, MetadataCatalog.data = before


def outcome(cfg, json_file, image_root):
    """What a data set gets that had 4 images and 8 annotations."""
    try:
        check_datasets(cfg)
        check_test_set(cfg)
    except DatasetError as error:
        # It names what it is about.
        assert str(json_file) in str(error) or "'mine'" in str(error)
        return ERROR
    records = load_records(cfg, "mine")
    learned = sum(len(record["annotations"]) for record in records)
    ids = [record["image_id"] for record in records]
    truth = renumbered_ground_truth(str(json_file), ids, need_masks=True)
    assert len(truth["images"]) == len(records) and len(truth["annotations"]) == learned
    images, annotations = 4 - len(records), 8 - learned
    if images:
        return f"{images} image and {annotations} annotations left out"
    if annotations:
        return f"{annotations} annotation left out"
    arguments = dict(need_masks=True, bad_records="collect")
    notes = check_coco_format(str(json_file), str(image_root), **arguments).notes
    return LINE if notes else ACCEPTED


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_it_gets(kind, tmp_path, catalogs):
    folder = tmp_path / "images"
    folder.mkdir()
    data = sound(folder)
    content = kind.change(data, folder)
    json_file = tmp_path / "instances.json"
    content = json.dumps(data) if content is None else content
    json_file.write_bytes(content.encode() if isinstance(content, str) else content)
    cfg = get_cfg()
    add_mutualnet_config(cfg)
    cfg.DATASETS.COCO_FORMAT = [["mine", str(json_file), str(folder)]]
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("mine",)
    cfg.MODEL.MASK_ON, cfg.MODEL.ROI_HEADS.NUM_CLASSES = True, 2
    cfg.INPUT.MASK_FORMAT = "bitmask"
    assert outcome(cfg, json_file, folder) == kind.by_default
    cfg.MUTUALNET.BAD_RECORDS = "skip"
    assert outcome(cfg, json_file, folder) == kind.skipped


def test_the_page(request):
    path = request.config.rootpath / "docs" / "reference" / "bad_input.md"
    if os.environ.get("WRITE_PAGES"):
        path.write_text(page())
    assert path.read_text() == page(), "WRITE_PAGES=1 python -m pytest writes the page again"
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 60
