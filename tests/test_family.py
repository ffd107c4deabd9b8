"""The kinds of network: what a config says of each, and a row for each in every table."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

from mutualnet_det import load_config
from mutualnet_det.config import LOSS_TERMS, checks
from mutualnet_det.data import check, images, loader, records
from mutualnet_det.evaluation import cost, scopes, task
from mutualnet_det.family import (
    HAS_SCOPE,
    META_ARCHITECTURES,
    OBJECT_HEADS,
    OUTPUTS,
    Family,
    family,
    finds_only_objects,
    outputs,
)
from mutualnet_det.modeling.inference import infer_batch

CONFIGS = Path(__file__).parents[1] / "configs"
TABLES = {
    "outputs": OUTPUTS,
    "scope": HAS_SCOPE,
    "checks of the config": checks._CHECKS,
    "checks of data sets": check.CHECKS,
    "records": records.LOADERS,
    "training inputs": loader.INPUTS,
    "views": images.VIEWS,
    "tasks": task.TASKS,
    "reports of costs": scopes.REPORTS,
}


@pytest.mark.parametrize("name", TABLES)
def test_every_kind_has_its_row(name):
    assert set(TABLES[name]) == set(Family)


def test_what_finds_objects_has_the_head_that_does():
    assert set(OBJECT_HEADS) == {kind for kind, names in OUTPUTS.items() if "box" in names}


def test_every_meta_architecture_of_the_project_is_of_a_kind():
    assert set(LOSS_TERMS) <= set(META_ARCHITECTURES)
    assert all(name in META_ARCH_REGISTRY for name in META_ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "kind", "given"),
    [
        ("mutual_maskrcnn_mbv2", Family.RCNN, ("box", "mask")),
        ("mutual_panoptic_fpn_mbv2", Family.PANOPTIC, ("box", "mask", "semantic")),
        ("mutual_semantic_fpn_mbv2", Family.SEMANTIC, ("semantic",)),
        ("mutual_retinanet_mbv2", Family.DENSE, ("box",)),
        ("pretrain_mbv2", Family.CLASSIFIER, ("class",)),
    ],
)
def test_what_a_config_gives(name, kind, given):
    cfg = load_config(str(CONFIGS / f"{name}.yaml"))
    assert (family(cfg), outputs(cfg)) == (kind, given)
    assert finds_only_objects(cfg) == (kind in (Family.RCNN, Family.DENSE))


def test_heads_that_a_network_lacks_give_nothing():
    cfg = load_config(str(CONFIGS / "mutual_retinanet_mbv2.yaml")).clone()
    cfg.defrost()
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = True
    assert outputs(cfg) == ("box",)
    cfg = load_config(str(CONFIGS / "mutual_maskrcnn_mbv2.yaml"), ["MODEL.MASK_ON", "False"])
    assert outputs(cfg) == ("box",)


def test_a_meta_architecture_of_others_is_taken_for_an_rcnn():
    cfg = load_config(str(CONFIGS / "mutual_maskrcnn_mbv2.yaml")).clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = "SomebodysRCNN"
    assert family(cfg) is Family.RCNN


def test_a_network_of_no_kind_is_named():
    with pytest.raises(TypeError, match="A Identity is no kind of network"):
        infer_batch(torch.nn.Identity(), [])
    with pytest.raises(ValueError, match="A Identity is no model whose cost is counted"):
        cost.heads_on_maps(torch.nn.Identity())
