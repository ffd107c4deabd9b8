"""Semantic masks of the generated data sets: the right class at each pixel, and safe files."""

import dataclasses
import json
import os

import numpy as np
import pytest
import shapely
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from PIL import Image
from shapely.geometry import Polygon

from mutualnet_det.data.faults import DatasetError
from mutualnet_det.data.loader import build_training_loader
from mutualnet_det.data.shapes import objects as shapes
from mutualnet_det.data.shapes import semantic as shapes_semantic

NUM_IMAGES = 6
VARIANTS = {
    "shapes": dataclasses.replace(shapes.SHAPES_VARIANTS["shapes"], image_size=96, sides=(16, 40)),
    "shapes_hard": dataclasses.replace(
        shapes.SHAPES_VARIANTS["shapes_hard"], image_size=160, sides=(12, 80)
    ),
}


@pytest.fixture(params=VARIANTS)
def generated(request, tmp_path):
    """JSON file, image folder and folder of the masks, of a few images."""
    variant = VARIANTS[request.param]
    json_file = shapes.generate_shapes(variant, str(tmp_path), "train", NUM_IMAGES, seed=3)
    folder = tmp_path / variant.name
    return json_file, str(folder / "train"), str(folder / "semantic_train")


@pytest.fixture
def one(tmp_path):
    """The same of the first variant alone, where it does not matter what is drawn."""
    json_file = shapes.generate_shapes(VARIANTS["shapes"], str(tmp_path), "val", 4, seed=3)
    return json_file, str(tmp_path / "shapes" / "semantic_val")


def contents(folder):
    return {
        name: open(os.path.join(folder, name), "rb").read() for name in sorted(os.listdir(folder))
    }


def test_pixels_hold_the_class_of_what_is_seen_there(generated):
    json_file, image_root, folder = generated
    before = open(json_file, "rb").read(), contents(image_root)
    records = shapes_semantic.semantic_records(json_file, image_root, folder)
    assert (open(json_file, "rb").read(), contents(image_root)) == before
    data = json.loads(before[0])
    assert len(records) == NUM_IMAGES
    seen = set()
    for record, image in zip(records, data["images"], strict=True):
        assert os.path.basename(record["file_name"]) == image["file_name"]
        with Image.open(record["sem_seg_file_name"]) as picture:
            assert picture.mode == "L"
            mask = np.asarray(picture)
        assert mask.shape == (record["height"], record["width"])
        y, x = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
        expected = np.zeros(mask.shape, int)
        for annotation in data["annotations"]:
            if annotation["image_id"] == record["image_id"]:
                for polygon in annotation["segmentation"]:
                    outline = Polygon(np.reshape(polygon, (-1, 2)))
                    expected[shapely.contains_xy(outline, x, y)] = annotation["category_id"]
        # Pixels that an outline cuts may go either way.
        assert (mask != expected).mean() < 0.01
        seen |= set(np.unique(mask).tolist())
    assert seen >= {0, 1, 2} and max(seen) <= len(data["categories"])


def test_a_killed_run_is_continued_and_what_is_complete_left_alone(one, monkeypatch):
    json_file, folder = one
    draw, drawn = shapes_semantic.semantic_mask, []

    def killed_at_the_third(image, annotations):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(image["id"])
        return draw(image, annotations)

    monkeypatch.setattr(shapes_semantic, "semantic_mask", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        shapes_semantic.generate_semantic(json_file, folder)
    monkeypatch.setattr(
        shapes_semantic, "semantic_mask", lambda *args: drawn.append(args[0]["id"]) or draw(*args)
    )
    for _ in range(2):
        shapes_semantic.generate_semantic(json_file, folder)
    assert drawn == [1, 2, 3, 4]  # none twice
    names = [name for name in contents(folder) if name.endswith(".png")]
    assert names == [f"00000{index}.png" for index in range(1, 5)]


@pytest.mark.parametrize("change", ["seed", "version"])
def test_masks_of_other_annotations_are_replaced(one, change, tmp_path, monkeypatch):
    json_file, folder = one
    shapes_semantic.generate_semantic(json_file, folder)
    stale = os.path.join(folder, "000002.png")
    before = open(stale, "rb").read()
    open(stale, "wb").write(b"old")
    if change == "seed":
        json_file = shapes.generate_shapes(VARIANTS["shapes"], str(tmp_path), "val", 4, seed=4)
    else:
        monkeypatch.setattr(shapes_semantic, "VERSION", shapes_semantic.VERSION + 1)
    shapes_semantic.generate_semantic(json_file, folder)
    assert (open(stale, "rb").read() == before) == (change == "version")
    assert np.asarray(Image.open(stale)).shape == (96, 96)


def test_other_peoples_files_are_not_touched(one):
    json_file, folder = one
    os.makedirs(folder)
    theirs = os.path.join(folder, "000001.png")
    open(theirs, "wb").write(b"theirs")
    with pytest.raises(DatasetError, match="did not generate"):
        shapes_semantic.generate_semantic(json_file, folder)
    assert contents(folder) == {"000001.png": b"theirs"}


def test_a_place_that_cannot_be_written_is_named(one):
    json_file, folder = one
    open(folder, "w").write("a file where the folder should be")
    with pytest.raises(DatasetError, match=r"Cannot write .*DETECTRON2_DATASETS"):
        shapes_semantic.generate_semantic(json_file, folder)


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """The semantic data sets, of 4 images each and below ``tmp_path``; restored afterwards."""
    small = {n: dataclasses.replace(s, num_images=4) for n, s in shapes.SHAPES_SPLITS.items()}
    names = [f"{s.variant}_sem_{s.split}" for s in small.values()]
    for module in (shapes, shapes_semantic):
        monkeypatch.setattr(module, "SHAPES_SPLITS", small)
    catalogs = [
        (c, n, c.data.pop(n, None)) for c in (DatasetCatalog, MetadataCatalog) for n in names
    ]
    for _ in range(2):
        shapes_semantic.register_semantic(str(tmp_path))
    yield names
    for catalog, name, entry in catalogs:
        catalog.data.pop(name, None)
        if entry is not None:
            catalog.data[name] = entry


def test_registered_data_sets_are_made_when_asked_for(registered, tmp_path):
    assert set(registered) == {
        *("shapes_sem_train", "shapes_sem_val", "shapes_sem_test"),
        *("shapes_hard_sem_train", "shapes_hard_sem_val"),
    }
    assert not os.listdir(tmp_path)
    metadata = MetadataCatalog.get("shapes_sem_val")
    assert metadata.stuff_classes == ["background", "circle", "square", "triangle"]
    assert metadata.ignore_label == 255 and metadata.evaluator_type == "sem_seg"
    records = DatasetCatalog.get("shapes_sem_val")
    assert len(records) == 4 and os.listdir(tmp_path) == ["shapes"]
    assert os.path.dirname(records[0]["sem_seg_file_name"]) == metadata.sem_seg_root
    assert os.path.dirname(records[0]["file_name"]) == metadata.image_root


def test_images_and_masks_are_flipped_alike(registered, tiny_cfg):
    tiny_cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", (192,), "MODEL.MASK_ON", False])
    (record, *_) = DatasetCatalog.get("shapes_sem_val")
    mapper = DatasetMapper(tiny_cfg, is_train=True)
    items = {}
    for seed in range(8):
        np.random.seed(seed)
        item = mapper(record)
        items[item["image"].sum(dim=0)[:, 0].sum().item()] = item
    straight, flipped = items.values()
    assert torch.equal(straight["image"], flipped["image"].flip(2))
    assert torch.equal(straight["sem_seg"], flipped["sem_seg"].flip(1))
    assert straight["sem_seg"].dtype == torch.int64


def test_training_batches_hold_the_masks(registered, tiny_cfg):
    tiny_cfg.MODEL.META_ARCHITECTURE = "MutualSemanticSegmentor"
    tiny_cfg.merge_from_list(["DATASETS.TRAIN", ("shapes_sem_train",), "MODEL.MASK_ON", False])
    assert tiny_cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    batch = next(iter(build_training_loader(tiny_cfg, seed=0, start=0)))
    assert [item["sem_seg"].shape for item in batch] == [(64, 64)] * 2
    assert all(item["sem_seg"].max() in (1, 2, 3) for item in batch)
