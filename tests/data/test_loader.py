"""Training inputs: the same whatever the number of workers; bad images named or skipped."""

import copy
import json
import random
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mutualnet_det.data.coco import check_datasets
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.data.loader import (
    LoaderError,
    SeededMapper,
    TrainingImages,
    build_training_loader,
    explaining_worker_deaths,
)
from mutualnet_det.data.records import training_records


@pytest.fixture
def cfg(training_cfg):
    check_datasets(training_cfg)
    return training_cfg


@pytest.fixture
def with_data(training_cfg, tmp_path):
    """The tiny data set changed: ``change(data, folder)``, under a name of its own."""

    def make(change):
        _, json_file, image_root = training_cfg.DATASETS.COCO_FORMAT[0]
        data = json.loads(Path(json_file).read_text())
        folder = tmp_path / "images"
        folder.mkdir()
        for path in Path(image_root).glob("*.jpg"):
            (folder / path.name).write_bytes(path.read_bytes())
        change(data, folder)
        (tmp_path / "data.json").write_text(json.dumps(data))
        name = f"changed_{tmp_path.name}"
        training_cfg.DATASETS.COCO_FORMAT = [[name, str(tmp_path / "data.json"), str(folder)]]
        training_cfg.DATASETS.TRAIN = training_cfg.DATASETS.TEST = (name,)
        check_datasets(training_cfg)
        return training_cfg

    return make


def batches(cfg, count, start=0, seed=0):
    return list(islice(build_training_loader(cfg, seed, start), count))


def assert_same(one, other):
    assert len(one) == len(other)
    for item, twin in zip(sum(one, []), sum(other, []), strict=True):
        assert item["file_name"] == twin["file_name"] and item["skipped"] == twin["skipped"]
        assert torch.equal(item["image"], twin["image"])
        assert torch.equal(item["instances"].gt_boxes.tensor, twin["instances"].gt_boxes.tensor)
        polygons, twins = (x["instances"].gt_masks.polygons for x in (item, twin))
        for actual, expected in zip(polygons, twins, strict=True):
            assert all(map(np.array_equal, actual, expected))


@pytest.mark.parametrize("more", [False, True], ids=["", "more augmentations"])
def test_same_augmentations_whatever_the_number_of_workers(cfg, more):
    if more:
        cfg.MUTUALNET.AUGMENTATION.SCALE = (0.5, 2.0)
        cfg.MUTUALNET.AUGMENTATION.ROTATION = 20
        cfg.MUTUALNET.AUGMENTATION.LIGHTING = 0.1
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    cfg.INPUT.CROP.ENABLED = True
    none = batches(cfg, 8)
    cfg.DATALOADER.NUM_WORKERS = 2
    assert_same(batches(cfg, 8), none)
    # The same from a later iteration on: nothing is carried over.
    assert_same(batches(cfg, 3, start=5), none[5:])


def test_augmentations_differ_between_epochs(cfg):
    versions = {}
    for item in sum(batches(cfg, 60), []):
        versions.setdefault(item["file_name"], set()).add(item["image"].numpy().tobytes())
    # A flip is one of two, in each of 10 epochs.
    assert len(versions) == 12 and set(map(len, versions.values())) <= {1, 2}
    assert sum(map(len, versions.values())) > 20


def test_inputs_are_detectron2s(cfg):
    (batch,) = batches(cfg, 1)
    assert len(batch) == 2
    for item in batch:
        assert item["image"].shape == (3, 64, 64) and item["image"].dtype == torch.uint8
        assert len(item["instances"].gt_boxes) == len(item["instances"].gt_masks) > 0
        assert item["skipped"] == []


def test_shares_of_processes(cfg, monkeypatch):
    cfg.SOLVER.IMS_PER_BATCH = 4
    whole = batches(cfg, 3)
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        assert_same(batches(cfg, 3), [batch[rank::2] for batch in whole])


@pytest.mark.parametrize("is_deep", [False, True])
def test_pixels_of_more_than_8_bits_are_an_error(with_data, is_deep, tmp_path):
    def change(data, folder):
        for image in data["images"]:
            size = image["height"], image["width"]
            image["file_name"] = f"{image['id']}.png"
            Image.fromarray(np.full(size, 30, np.uint8)).save(folder / image["file_name"])

    cfg = with_data(change)
    if is_deep:  # since it was checked
        for path in (tmp_path / "images").glob("*.png"):
            Image.fromarray(np.full(Image.open(path).size[::-1], 300, np.uint16)).save(path)
        with pytest.raises(DatasetError, match=r"Cannot use .*\.png: pixels of more than 8 bits"):
            batches(cfg, 1)
    else:
        assert (batches(cfg, 1)[0][0]["image"] == 30).all()


# Mapper ------------------------------------------------------------------------------------------


def test_mapper_draws_from_its_seed_and_leaves_other_streams_alone():
    mapper = SeededMapper(lambda record: (np.random.rand(), random.random()))
    np.random.seed(1)
    random.seed(1)
    before = copy.deepcopy(np.random.get_state()[1]), random.getstate()
    large = 2**64 - 1  # seeds have 64 bits
    assert mapper({}, large) == mapper({}, large) != mapper({}, 5)
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert random.getstate() == before[1]


def test_mapper_restores_other_streams_after_an_error():
    def fail(record):
        np.random.rand()
        raise KeyError("annotations")

    np.random.seed(1)
    expected = np.random.rand()
    np.random.seed(1)
    with pytest.raises(DatasetError, match="Cannot use a.jpg: 'annotations'"):
        SeededMapper(fail)({"file_name": "a.jpg"}, 0)
    assert np.random.rand() == expected


def fake_images(bad, skips):
    """Five images named by their index; those in ``bad`` cannot be used."""

    def use(record):
        if record["file_name"] in bad:
            raise ValueError("broken")
        return {"name": record["file_name"]}

    records = [{"file_name": str(index)} for index in range(5)]
    return TrainingImages(records, SeededMapper(use), skips)


def test_next_image_stands_in_for_a_bad_one():
    images = fake_images({"3", "4"}, skips=True)
    assert images[2, 0] == {"name": "2", "skipped": []}
    assert images[4, 0] == {"name": "0", "skipped": ["4"]}
    assert images[3, 0] == {"name": "0", "skipped": ["3", "4"]}


def test_bad_image_stops():
    item = fake_images({"3"}, skips=False)[3, 0]
    assert isinstance(item, DatasetError) and str(item) == "Cannot use 3: broken"


def test_no_good_image_at_all():
    item = fake_images(set("01234"), skips=True)[2, 0]
    assert isinstance(item, DatasetError)
    assert str(item).startswith("None of the 5 training images")
    assert str(item).endswith("Cannot use 1: broken")


# Bad data ----------------------------------------------------------------------------------------

BROKEN = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:700]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
    "other size": lambda path: Image.new("RGB", (50, 40)).save(path),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}
# One kind is enough to see what comes out of a worker.
CASES = [*((kind, 0) for kind in BROKEN), ("truncated", 2)]


@pytest.mark.parametrize("kind, workers", CASES)
def test_image_that_cannot_be_used_is_named(with_data, kind, workers, tmp_path):
    cfg = with_data(lambda data, folder: None)
    BROKEN[kind](tmp_path / "images" / "000005.jpg")  # since it was checked
    cfg.DATALOADER.NUM_WORKERS = workers
    # At once, not behind a worker's traceback.
    with pytest.raises(DatasetError, match="^Cannot use .*000005.jpg"):
        batches(cfg, 6)


@pytest.mark.parametrize("kind, workers", CASES)
def test_image_that_cannot_be_used_is_skipped(with_data, kind, workers, tmp_path):
    cfg = with_data(lambda data, folder: None)
    BROKEN[kind](tmp_path / "images" / "000005.jpg")  # since it was checked
    cfg.MUTUALNET.BAD_RECORDS = "skip"
    cfg.DATALOADER.NUM_WORKERS = workers
    items = sum(batches(cfg, 12), [])  # two epochs
    assert len(items) == 24
    assert not [item for item in items if item["file_name"].endswith("000005.jpg")]
    skipped = [name for item in items for name in item["skipped"]]
    assert [Path(name).name for name in skipped] == ["000005.jpg"] * 2


def empty_some(data, folder):
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] > 4]


def test_images_without_objects_are_left_out_by_default(with_data):
    cfg = with_data(empty_some)
    assert cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    assert len(training_records(cfg)) == 8


def test_images_without_objects_are_legal(with_data):
    cfg = with_data(empty_some)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert len(training_records(cfg)) == 12
    items = sum(batches(cfg, 6), [])
    empty = [item for item in items if item["image_id"] <= 4]
    assert len(empty) == 4
    for item in empty:
        assert len(item["instances"]) == 0
        assert item["instances"].gt_boxes.tensor.shape == (0, 4)


def test_crowds_are_no_objects(with_data):
    def crowd(data, folder):
        for annotation in data["annotations"]:
            annotation["iscrowd"] = int(annotation["image_id"] <= 3)

    cfg = with_data(crowd)
    assert len(training_records(cfg)) == 9
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    items = sum(batches(cfg, 6), [])
    assert {len(x["instances"]) for x in items if x["image_id"] <= 3} == {0}


def test_images_of_a_rare_class_are_seen_more_often(with_data, caplog):
    def make_one_rare(data, folder):
        for annotation in data["annotations"]:
            annotation["category_id"] = 3 if annotation["image_id"] == 1 else 1
            # A crowd is not learned from, so it makes no image one of its class.
            annotation["iscrowd"] = int(annotation["image_id"] == 2)
            if annotation["iscrowd"]:
                annotation["category_id"] = 2

    cfg = with_data(make_one_rare)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.75  # 9 times 1 of 12 images: its repeat is 3
    with caplog.at_level("INFO", logger="mutualnet_det"):
        items = sum(batches(cfg, 7), [])
    counts = Counter(item["image_id"] for item in items)
    assert counts == {1: 3} | dict.fromkeys(range(2, 13), 1)
    assert "on less than 0.75 of the 12 images are repeated: 1 of them, up to 3.0 times; an " in (
        caplog.text
    )
    # Flipped or not.
    first = [item["image"][..., :8].sum() for item in items if item["image_id"] == 1]
    assert len(set(map(int, first))) > 1


def test_several_data_sets(cfg, with_data):
    name = cfg.DATASETS.TRAIN[0]
    both = with_data(lambda data, folder: None)
    both.DATASETS.TRAIN = (*both.DATASETS.TRAIN, name)
    assert len(training_records(both)) == 24


@pytest.fixture
def without_annotations(tiny_shapes):
    """The name of a data set whose records have pixels' classes instead of objects."""
    _, _, image_root = tiny_shapes
    record = {"file_name": f"{image_root}/000001.jpg", "sem_seg_file_name": "1.png"}
    DatasetCatalog.register("pixels_only", lambda: [dict(record)])
    yield "pixels_only"
    DatasetCatalog.remove("pixels_only")
    MetadataCatalog.remove("pixels_only")


def test_detectors_need_annotations(cfg, without_annotations):
    cfg.DATASETS.TRAIN = (*cfg.DATASETS.TRAIN, without_annotations)
    with pytest.raises(DatasetError, match="000001.jpg comes without annotations of objects"):
        training_records(cfg)


def test_a_semantic_segmentor_does_not(cfg, with_data, without_annotations):
    cfg = with_data(empty_some)
    cfg.DATASETS.TRAIN = (*cfg.DATASETS.TRAIN, without_annotations)
    cfg.MODEL.META_ARCHITECTURE = "MutualSemanticSegmentor"
    assert len(training_records(cfg)) == 12 + 1


def test_a_dead_worker_is_explained_where_it_broke_something_else():
    """PyTorch raises in the midst of whatever goes on, which may fail in its own way for it."""
    with pytest.raises(LoaderError, match="^DataLoader worker .pid 7. is killed.*--resume"):
        with explaining_worker_deaths():
            try:
                raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
            finally:
                raise RuntimeError("unexpected pos 1306432 vs 1306328")


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="^shapes do not match$"), explaining_worker_deaths():
        raise RuntimeError("shapes do not match")
