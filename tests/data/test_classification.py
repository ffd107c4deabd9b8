"""Data sets for classification, and what a training image goes through."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mutualnet_det.config import ConfigError, load_config
from mutualnet_det.data.check import check_datasets, training_tables
from mutualnet_det.data.classification import (
    LIGHTING_DEVIATIONS,
    LIGHTING_DIRECTIONS,
    ClassificationMapper,
    Lighting,
    evaluation_images,
    load_classification_records,
    read_classification_image,
    register_cifar,
    register_image_folder,
)
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.data.loader import SeededMapper, build_training_loader
from mutualnet_det.data.records import training_records
from mutualnet_det.data.shapes.classes import VARIANT, generate_classes


@pytest.fixture
def catalog():
    """Data sets that a test registers are forgotten after it."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def folder(tmp_path, catalog):
    """Writes an image folder: ``folder(name, {"cat": 2, "dog": 1})``; returns its path."""

    def make(name, classes, size=(40, 60)):
        root = tmp_path / name
        for label, (class_, count) in enumerate(classes.items()):
            (root / class_).mkdir(parents=True)
            for index in range(count):
                pixels = np.full((*size, 3), (40 * label, 100, index), np.uint8)
                Image.fromarray(pixels).save(root / class_ / f"{index}.png")
        return str(root)

    return make


@pytest.fixture
def cfg_of(folder):
    """Makes a config that trains and tests on image folders of the given classes."""

    def make(train, test, *opts):
        paths = [["a_train", folder("train", train)], ["a_val", folder("val", test)]]
        declared = ["DATASETS.IMAGE_FOLDERS", str(paths), "DATASETS.TRAIN", "('a_train',)"]
        return load_config(
            "configs/pretrain_shapes.yaml",
            [*declared, "DATASETS.TEST", "('a_val',)", "MODEL.BACKBONE.NUM_CLASSES", "2", *opts],
        )

    return make


def test_a_folder_is_a_class(cfg_of):
    cfg = cfg_of({"cat": 2, "dog": 1}, {"cat": 1, "dog": 1})
    check_datasets(cfg)
    assert MetadataCatalog.get("a_train").classes == ["cat", "dog"]
    records = training_records(cfg)
    assert [record["label"] for record in records] == [0, 0, 1]
    assert records[2]["file_name"].endswith("dog/0.png")


def test_records_need_no_call_before(cfg_of):
    cfg = cfg_of({"cat": 2, "dog": 1}, {"cat": 1, "dog": 1})
    assert len(load_classification_records(cfg, "a_val")) == 2
    with pytest.raises(DatasetError, match="names 'nothing'.*IMAGE_FOLDERS"):
        load_classification_records(cfg, "nothing")


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({"cat": 1, "dog": 1}, {"cat": 1, "cow": 1}, r"only 'a_val' has 'cow'"),
        ({"cat": 1, "dog": 1}, {"cat": 1}, r"'a_val' lacks 'dog'. Each class needs a folder"),
        ({"cat": 1, "dog": 0}, {"cat": 1, "dog": 1}, "'a_train'.*dog"),
        ({}, {"cat": 1, "dog": 1}, "'a_train' is not there: no folder"),
        ({"cat": 1, "dog": 1}, {"dog": 1, "cat": 1, "cow": 1}, r"'a_train' lacks 'cow'"),
        (dict.fromkeys("abc", 1), dict.fromkeys("abc", 1), "TEST have 3 classes .* MODEL"),
    ],
)
def test_folders_that_cannot_be_used_are_named(cfg_of, train, test, message):
    with pytest.raises(DatasetError, match=message):
        check_datasets(cfg_of(train, test))


def test_unknown_data_set_is_named(cfg_of):
    cfg = cfg_of({"cat": 1, "dog": 1}, {"cat": 1}, "DATASETS.TEST", "('nothing',)")
    with pytest.raises(DatasetError, match="'nothing'.*IMAGE_FOLDERS"):
        check_datasets(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = ("coco_2017_val",)
    with pytest.raises(DatasetError, match="'coco_2017_val' is not one for classification"):
        check_datasets(cfg)


def test_bad_declaration_is_named(cfg_of):
    cfg = cfg_of({"cat": 1}, {"cat": 1}).clone()
    cfg.defrost()
    cfg.DATASETS.IMAGE_FOLDERS = [["only a name"]]
    with pytest.raises(DatasetError, match=r"IMAGE_FOLDERS\[0\] is \['only a name'\]"):
        check_datasets(cfg)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_is_named_or_skipped(cfg_of, workers):
    options = ["SOLVER.IMS_PER_BATCH", "3", "DATALOADER.NUM_WORKERS", str(workers)]
    cfg = cfg_of({"cat": 2, "dog": 1}, {"cat": 1, "dog": 1}, *options).clone()
    check_datasets(cfg)
    broken = training_records(cfg)[1]["file_name"]
    with open(broken, "wb") as file:
        file.write(b"no image")
    with pytest.raises(DatasetError, match="Cannot use .*cat/1.png"):
        next(build_training_loader(cfg, 0, 0))
    cfg.defrost()
    cfg.MUTUALNET.BAD_RECORDS = "skip"
    batch = next(build_training_loader(cfg, 0, 0))
    assert [name for item in batch for name in item["skipped"]] == [broken]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_worker_sends_one_tensor_per_batch(cfg_of, workers):
    """Of a thousand images, each in a tensor of its own, it would run out of files."""
    options = ["SOLVER.IMS_PER_BATCH", "3", "DATALOADER.NUM_WORKERS", str(workers)]
    cfg = cfg_of({"cat": 2, "dog": 1}, {"cat": 1, "dog": 1}, *options)
    check_datasets(cfg)
    batch = next(build_training_loader(cfg, 0, 0))
    assert sorted(item["label"] for item in batch) == [0, 0, 1]
    assert {item["image"].shape for item in batch} == {(3, 64, 64)}
    assert len({item["image"].untyped_storage().data_ptr() for item in batch}) == 1


@pytest.fixture
def cifar(tmp_path, catalog):
    """Writes CIFAR files as Python 2 did, 4 images each; returns folder and all pixels."""
    generator = np.random.default_rng(0)

    def make(hundred):
        root = tmp_path / ("hundred" if hundred else "ten")
        root.mkdir()
        pixels = {}
        names = ["train", "test"] if hundred else [f"data_batch_{i}" for i in range(1, 6)]
        for name in names if hundred else [*names, "test_batch"]:
            pixels[name] = generator.integers(0, 256, (4, 3072), dtype=np.uint8)
            labels = {"fine_labels" if hundred else "labels": [3, 1, 0, 2]}
            (root / name).write_bytes(pickle.dumps({"data": pixels[name], **labels}, 2))
        key = "fine_label_names" if hundred else "label_names"
        meta = {key: ["a", "b", "c", "d"]}
        (root / ("meta" if hundred else "batches.meta")).write_bytes(pickle.dumps(meta, 2))
        return root, pixels

    return make


@pytest.mark.parametrize("hundred", [False, True])
def test_cifar_is_read_from_its_own_files(cifar, hundred):
    root, pixels = cifar(hundred)
    register_cifar("c_train", str(root), "train")
    register_cifar("c_test", str(root), "test")
    cfg = load_config("configs/pretrain_shapes.yaml")
    records = load_classification_records(cfg, "c_train")
    assert len(records) == (4 if hundred else 20)
    assert [record["label"] for record in records[:4]] == [3, 1, 0, 2]
    assert MetadataCatalog.get("c_train").classes == ["a", "b", "c", "d"]
    record = load_classification_records(cfg, "c_test")[2]
    image = read_classification_image(record, "RGB")
    # The format's description: 1024 red values row by row, then green, then blue.
    expected = pixels["test" if hundred else "test_batch"][2]
    assert image.shape == (32, 32, 3)
    for channel in range(3):
        assert image[5, 7, channel] == expected[1024 * channel + 32 * 5 + 7]
    np.testing.assert_array_equal(read_classification_image(record, "BGR"), image[..., ::-1])


def test_damaged_cifar_file_is_named(cifar):
    root, _ = cifar(False)
    (root / "data_batch_3").write_bytes(pickle.dumps({"data": np.zeros((4, 7)), "labels": [0] * 4}))
    register_cifar("c_train", str(root), "train")
    with pytest.raises(DatasetError, match="data_batch_3 is not a file of CIFAR"):
        load_classification_records(load_config("configs/pretrain_shapes.yaml"), "c_train")


def mapper_of(*opts):
    return ClassificationMapper(load_config("configs/pretrain_shapes.yaml", list(opts)))


def test_a_training_image_depends_on_its_seed_alone(folder):
    path = folder("train", {"cat": 1}) + "/cat/0.png"
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    options = [f"MUTUALNET.CLASSIFICATION.{k}" for k in ("COLOR_JITTER", "LIGHTING")]
    mapper = SeededMapper(mapper_of(options[0], "0.4", options[1], "0.1"))
    record = {"file_name": path, "label": 1}
    first, again, other = (mapper(record, seed)["image"] for seed in (1, 1, 2))
    assert first.shape == (3, 64, 64)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)
    state = torch.get_rng_state()
    mapper(record, 3)
    assert torch.equal(state, torch.get_rng_state())


def test_colours_are_varied_alike_in_either_order(folder):
    path = folder("train", {"cat": 1}) + "/cat/0.png"
    options = [f"MUTUALNET.CLASSIFICATION.{k}" for k in ("COLOR_JITTER", "LIGHTING")]
    options = (options[0], "0.4", options[1], "0.1")
    record = {"file_name": path, "label": 1}
    rgb = SeededMapper(mapper_of(*options))(record, 1)["image"]
    bgr = SeededMapper(mapper_of(*options, "INPUT.FORMAT", "BGR"))(record, 1)["image"]
    torch.testing.assert_close(bgr, rgb.flip(0))
    with pytest.raises(ConfigError, match="INPUT.FORMAT is 'L'"):
        mapper_of("INPUT.FORMAT", "L")


def test_images_are_flipped_as_the_config_says(folder):
    path = folder("train", {"cat": 1}) + "/cat/0.png"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    whole = torch.from_numpy(pixels).permute(2, 0, 1)
    crop = ("MUTUALNET.CLASSIFICATION.CROP_SCALE", "(1.0, 1.0)")
    for flip, dims in (("horizontal", [2]), ("vertical", [1]), ("none", [])):
        mapper = SeededMapper(mapper_of(*crop, "INPUT.RANDOM_FLIP", flip))
        images = [mapper({"file_name": path, "label": 0}, seed)["image"] for seed in range(8)]
        flipped = [not torch.equal(image, whole) for image in images]
        assert any(flipped) == bool(dims) and not all(flipped)
        for image in images:
            assert torch.equal(image, whole) or torch.equal(image, whole.flip(dims))


def test_padding_shifts_the_image(folder):
    path = folder("train", {"cat": 1}) + "/cat/0.png"
    pixels = np.random.default_rng(0).integers(1, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    mapper = SeededMapper(mapper_of("MUTUALNET.CLASSIFICATION.PADDING", "4"))
    whole = F.pad(torch.from_numpy(pixels).permute(2, 0, 1), (4, 4, 4, 4))
    shifts = set()
    for seed in range(30):
        image = mapper({"file_name": path, "label": 0}, seed)["image"]
        places = {
            (y, x, flip)
            for y in range(9)
            for x in range(9)
            for flip in (False, True)
            if torch.equal(whole[:, y : y + 64, x : x + 64], image.flip(2) if flip else image)
        }
        assert len(places) == 1
        shifts |= places
    assert len(shifts) > 15 and {flip for _, _, flip in shifts} == {False, True}


def test_lighting_shifts_along_imagenets_components():
    torch.manual_seed(0)
    deviates = torch.randn(3)
    torch.manual_seed(0)
    lit = Lighting(0.1)(torch.full((3, 4, 4), 128, dtype=torch.uint8))
    for channel, row in enumerate(LIGHTING_DIRECTIONS):
        shift = sum(
            direction * 0.1 * deviation * float(deviate)
            for direction, deviation, deviate in zip(
                row, LIGHTING_DEVIATIONS, deviates, strict=True
            )
        )
        torch.testing.assert_close(lit[channel], torch.full((4, 4), 128 + 255 * shift))


def test_evaluation_sees_the_middle():
    cfg = load_config("configs/pretrain_shapes.yaml", ["MUTUALNET.CLASSIFICATION.TEST_CROP", "0.5"])
    image = np.zeros((80, 120, 3), np.uint8)
    image[20:60, 40:80] = 200  # the middle, half of the short side
    (seen,) = evaluation_images(cfg, [image], 48)
    assert seen.shape == (3, 48, 48)
    torch.testing.assert_close(seen, torch.full_like(seen, 200))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.BACKBONE.NUM_CLASSES", "0"),
        ("MUTUALNET.CLASSIFICATION.CROP_SCALE", "(0.0, 1.0)"),
        ("MUTUALNET.CLASSIFICATION.LABEL_SMOOTHING", "1.0"),
        ("MUTUALNET.CLASSIFICATION.EMA_DECAY", "1.0"),
        ("MUTUALNET.CLASSIFICATION.PADDING", "-1"),
        ("MUTUALNET.CLASSIFICATION.TEST_CROP", "1.5"),
        ("MUTUALNET.CLASSIFICATION.TEST_BATCH_SIZE", "0"),
    ],
)
def test_bad_values_are_named(key, value):
    with pytest.raises(ConfigError, match=f"^{key} is "):
        load_config("configs/pretrain_shapes.yaml", [key, value])


# Generated images.


def test_generated_classes_are_a_function_of_the_seed(tmp_path):
    first, second = (generate_classes(VARIANT, str(tmp_path / n), 12, 5) for n in ("a", "b"))
    files = sorted((tmp_path / "a").glob("*/*.jpg"))
    assert len(files) == 12
    for file in files:
        twin = tmp_path / "b" / file.relative_to(tmp_path / "a")
        assert twin.read_bytes() == file.read_bytes()
    other = generate_classes(VARIANT, str(tmp_path / "c"), 12, 6)
    assert {f.name: f.parent.name for f in files} != {
        f.name: f.parent.name for f in (tmp_path / "c").glob("*/*.jpg")
    }
    assert first != second != other


def test_generating_continues_after_a_kill(tmp_path):
    folder = tmp_path / "a"
    generate_classes(VARIANT, str(folder), 6, 5)
    (folder / ".complete.json").unlink()
    files = sorted(folder.glob("*/*.jpg"))
    before = {file: file.read_bytes() for file in files}
    files[2].unlink()
    generate_classes(VARIANT, str(folder), 6, 5)
    assert {file: file.read_bytes() for file in files} == before


def test_another_seed_replaces_and_foreign_files_are_left_alone(tmp_path):
    folder = tmp_path / "a"
    generate_classes(VARIANT, str(folder), 4, 5)
    generate_classes(VARIANT, str(folder), 3, 6)
    assert len(list(folder.glob("*/*.jpg"))) == 3
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.doc").write_text("do not delete")
    with pytest.raises(DatasetError, match="did not generate"):
        generate_classes(VARIANT, str(foreign), 3, 6)
    assert (foreign / "thesis.doc").read_text() == "do not delete"


def test_a_name_stands_for_one_folder(folder):
    path = folder("train", {"cat": 1})
    register_image_folder("mine", path)
    register_image_folder("mine", path)
    with pytest.raises(DatasetError, match="'mine' is taken"):
        register_image_folder("mine", path + "2")


def test_training_tells_what_it_learns_from(cfg_of, tmp_path):
    cfg = cfg_of({"cat": 2, "dog": 1}, {"cat": 1, "dog": 1})
    (tmp_path / "train" / "dog" / "a.heic").touch()
    check_datasets(cfg)
    (table,) = training_tables(cfg)
    rows = [line.split() for line in table.splitlines()]
    assert ["cat", "2", "0"] in rows and ["dog", "1", "0"] in rows
    assert table.endswith("left out: files whose names are not of images: 1 .heic")
