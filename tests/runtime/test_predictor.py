"""The predictor: the point a budget allows, and what the model itself finds there."""

import dataclasses
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import read_image
from detectron2.data.transforms import ResizeShortestEdge
from PIL import Image
from torch import nn

from mutualnet_det import load_config
from mutualnet_det.checkpoint import (
    CheckpointError,
    MutualCheckpointer,
    load_detector,
    write_calibrations,
)
from mutualnet_det.config import ConfigError
from mutualnet_det.data.classification import evaluation_images
from mutualnet_det.modeling.build import build_network
from mutualnet_det.modeling.classifier import network_of
from mutualnet_det.runtime import (
    BudgetError,
    BudgetPredictor,
    ImageError,
    Latency,
    PredictorError,
    QueryEntry,
    QueryTable,
    QueryTableError,
)
from mutualnet_det.runtime.device import device_name
from mutualnet_det.slimmable import Calibrations, OperatingPoint

HERE = device_name(torch.device("cpu"))
# The table's points. The dearest in GFLOPs is not the slowest.
ENTRIES = (
    QueryEntry(OperatingPoint(0.25, 32), 1.0, {HERE: Latency(20.0, 22.0)}, box_ap=10.0),
    QueryEntry(OperatingPoint(0.5, 48), 2.0, {HERE: Latency(10.0, 12.0)}, box_ap=20.0),
    QueryEntry(OperatingPoint(1.0, 64), 4.0, {HERE: Latency(40.0, 44.0)}, box_ap=30.0),
)
UNLISTED = OperatingPoint(0.5, 64)
POINTS = sorted([*(entry.point for entry in ENTRIES), UNLISTED])


def make_table(calibrations, entries=ENTRIES):
    return QueryTable(entries, "box_ap", calibrations.fingerprint(), "shapes")


def build_random(cfg):
    """The config's model, with predictors that find many objects and are sure of their classes."""
    torch.manual_seed(0)
    model = build_network(cfg)
    for name, module in model.named_modules():
        if name.endswith(("objectness_logits", "cls_score", "head.predictor", "linear")):
            nn.init.normal_(module.weight, std=0.5)
        elif name.endswith(("anchor_deltas", "bbox_pred")):
            nn.init.normal_(module.weight, std=0.05)
    return model.eval()


def calibrated(model, points, sizes=((64, 64), (64, 64))):
    """Calibrations of a model on noise."""
    random = torch.Generator().manual_seed(0)
    batch = [
        {"image": torch.randint(0, 256, (3, *size), generator=random).float()} for size in sizes
    ]
    network = network_of(model)
    calibrations = Calibrations(network)
    for point in points:
        calibrations.calibrate(point, [batch], model)
    return calibrations


@pytest.fixture(scope="module")
def source(make_training_cfg, tmp_path_factory):
    """What a training and an evaluation leave, on a data set that is not there any more."""
    folder = tmp_path_factory.mktemp("source")
    cfg = make_training_cfg(folder)
    cfg.DATASETS.COCO_FORMAT = [["gone", "/nowhere/gone.json", "/nowhere"]]
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("gone",)
    model = build_random(cfg)
    calibrations = calibrated(model, POINTS)
    (folder / "config.yaml").write_text(cfg.dump())
    checkpointer = MutualCheckpointer(model, cfg, str(folder))
    checkpointer.save("model_final", calibrations=calibrations.state_dict())
    (folder / "grid").mkdir()
    (folder / "grid/query_table.json").write_text(make_table(calibrations).to_json())
    return folder


@pytest.fixture
def folder(source, tmp_path):
    """A copy to spoil."""
    folder = tmp_path / "copy"
    (folder / "grid").mkdir(parents=True)
    for name in ("config.yaml", "model_final.pth", "grid/query_table.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def predictor(source):
    return BudgetPredictor.from_pretrained(source, device="cpu")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The path of an image of 70 x 90 px."""
    path = tmp_path_factory.mktemp("images") / "noise.png"
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (14, 18, 3), dtype=np.uint8).repeat(5, 0).repeat(5, 1)
    Image.fromarray(noise).save(path)
    return str(path)


def by_hand(cfg, model, calibrations, path, point):
    """What Detectron2's own steps give."""
    pixels = read_image(path, format=cfg.INPUT.FORMAT)
    resize = ResizeShortestEdge(point.resolution, cfg.INPUT.MAX_SIZE_TEST).get_transform(pixels)
    seen = torch.as_tensor(resize.apply_image(pixels).transpose(2, 0, 1).copy())
    inputs = {"image": seen, "height": pixels.shape[0], "width": pixels.shape[1]}
    with calibrations.at(point), torch.no_grad():
        return model([inputs])[0]


def assert_same(actual, expected, **tolerance):
    """The same instances, in the same order."""
    assert len(actual) == len(expected) > 10
    assert actual.image_size == expected.image_size
    assert torch.equal(actual.pred_classes, expected.pred_classes)
    torch.testing.assert_close(actual.pred_boxes.tensor, expected.pred_boxes.tensor, **tolerance)
    torch.testing.assert_close(actual.scores, expected.scores, **tolerance)
    assert (actual.pred_masks != expected.pred_masks).float().mean() < 1e-3


# What it finds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_finds_what_the_model_finds(source, predictor, image, point):
    cfg = load_config(str(source / "config.yaml"))
    loaded = load_detector(cfg, str(source / "model_final.pth"))
    expected = by_hand(cfg, *loaded, image, point)["instances"]
    pil = Image.open(image)
    bgr = np.asarray(pil)[..., ::-1]
    for given in (image, pil, bgr):
        prediction = predictor(given, point=point)
        assert prediction.point == point
        assert_same(prediction.instances, expected, rtol=0, atol=0)
    assert not prediction.instances.scores.requires_grad
    swapped = predictor(bgr[..., ::-1], point=point).instances.scores
    assert swapped.shape != expected.scores.shape or not torch.equal(swapped, expected.scores)


def test_a_model_of_bgr_images_gets_them(source, image):
    cfg = load_config(str(source / "config.yaml"))
    model, calibrations = load_detector(cfg, str(source / "model_final.pth"))
    cfg.defrost()
    cfg.INPUT.FORMAT = "BGR"
    predictor = BudgetPredictor(cfg, model, calibrations, make_table(calibrations))
    expected = by_hand(cfg, model, calibrations, image, POINTS[0])["instances"]
    for given in (image, np.asarray(Image.open(image))[..., ::-1]):
        assert_same(predictor(given, point=POINTS[0]).instances, expected, rtol=0, atol=0)


def test_a_model_without_statistics_runs_at_the_tables_points(make_training_cfg, tmp_path, image):
    cfg = make_training_cfg(tmp_path)
    cfg.MUTUALNET.NORM = "GN"
    model = build_random(cfg)
    calibrations = Calibrations(model)
    predictor = BudgetPredictor(cfg, model, calibrations, make_table(calibrations))
    assert predictor.points == tuple(entry.point for entry in ENTRIES)
    assert predictor(image, gflops=2.5).point == ENTRIES[1].point
    for point, reason in (("0.5x5000", "outside MUTUALNET.RESOLUTIONS"), ("1.5x64", "WIDTH_RANGE")):
        with pytest.raises(PredictorError, match=reason):
            predictor(image, point=point)


def test_a_batch_finds_what_single_images_give(predictor, image):
    # Sizes that differ but are padded to the same, so that padding changes nothing.
    whole = np.asarray(Image.open(image))
    images = [whole[:64, :90], whole[:64, :70], whole[:32, :36]]
    batch = predictor.batch(images, gflops=5)
    assert [prediction.instances.image_size for prediction in batch] == [
        (64, 90),
        (64, 70),
        (32, 36),
    ]
    for prediction, single in zip(batch, images, strict=True):
        assert prediction.point == ENTRIES[-1].point and prediction.entry == ENTRIES[-1]
        assert_same(prediction.instances, predictor(single).instances, rtol=1e-4, atol=1e-3)


def test_a_batch_of_portraits_and_landscapes(predictor, image):
    whole = np.asarray(Image.open(image))
    batch = predictor.batch([whole, whole.transpose(1, 0, 2), image], milliseconds=10)
    assert [prediction.instances.image_size for prediction in batch] == [
        (70, 90),
        (90, 70),
        (70, 90),
    ]
    assert {prediction.point for prediction in batch} == {ENTRIES[1].point}
    for prediction in batch:
        boxes, (height, width) = (
            prediction.instances.pred_boxes.tensor,
            prediction.instances.image_size,
        )
        assert len(boxes) > 0 and (boxes <= boxes.new_tensor([width, height] * 2)).all()


def test_an_empty_batch(predictor):
    assert predictor.batch([], gflops=1) == []
    with pytest.raises(BudgetError):
        predictor.batch([], gflops=0)


def test_a_batch_names_the_image_that_is_wrong(predictor, image):
    with pytest.raises(ImageError, match=r"^images\[1\] is an array \(4, 5\) of uint8"):
        predictor.batch([image, np.zeros((4, 5), np.uint8)])


@pytest.mark.parametrize("size", [(1, 90), (90, 1), (1, 1), (30_000, 20), (20, 30_000)])
def test_extreme_sizes(predictor, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert predictor(image, gflops=1).instances.image_size == size


def test_threads_do_not_disturb_each_other(predictor, image):
    jobs = POINTS * 4
    expected = {point: predictor(image, point=point).instances for point in POINTS}
    with ThreadPoolExecutor(len(POINTS)) as pool:
        predictions = list(pool.map(lambda point: predictor(image, point=point), jobs))
    for point, prediction in zip(jobs, predictions, strict=True):
        assert prediction.point == point
        assert_same(prediction.instances, expected[point], rtol=0, atol=0)


# Which point it takes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "entry"),
    [
        ({}, 2),
        ({"gflops": 3.9}, 1),
        ({"gflops": 4}, 2),
        ({"milliseconds": 39}, 1),
        ({"milliseconds": 40}, 2),
        ({"gflops": 0.9, "clamp": True}, 0),
        ({"milliseconds": 9, "clamp": True}, 1),
        ({"milliseconds": -1, "clamp": True}, 1),
        ({"gflops": 3.9, "clamp": True}, 1),
        ({"point": "0.5x48"}, 1),
    ],
)
def test_takes_the_best_point_within_the_budget(predictor, image, budget, entry):
    prediction = predictor(image, **budget)
    assert prediction.entry == ENTRIES[entry]
    assert prediction.point == ENTRIES[entry].point


def test_a_point_need_not_be_in_the_table(predictor, image):
    prediction = predictor(image, point=str(UNLISTED))
    assert prediction.point == UNLISTED and prediction.entry is None
    assert predictor.points == tuple(POINTS)


@pytest.mark.parametrize(
    ("budget", "error", "message"),
    [
        ({"gflops": 0.9}, BudgetError, "0.25x32, costs 1 GFLOPs"),
        ({"milliseconds": 9}, BudgetError, "0.50x48, costs 10 ms"),
        ({"gflops": float("nan"), "clamp": True}, BudgetError, "a budget of nan"),
        ({"gflops": 1, "milliseconds": 9}, BudgetError, "got gflops=1, milliseconds=9"),
        ({"gflops": 1, "point": "1.0x64"}, BudgetError, "got gflops=1, point=1.0x64"),
        ({"point": "0.3x64"}, PredictorError, "0.30x64 is not calibrated; calibrated are 0.25x32,"),
        ({"point": "half"}, PredictorError, "'half' is not an operating point"),
        ({"point": 0.5}, PredictorError, "point is 0.5; expected an OperatingPoint or"),
    ],
)
def test_refuses_a_budget_before_it_reads_the_image(predictor, budget, error, message):
    with pytest.raises(error, match=message):
        predictor("nowhere.png", **budget)


@pytest.fixture
def elsewhere(source):
    """A predictor's arguments, and a table that knows other machines than this."""
    cfg = load_config(str(source / "config.yaml"))
    model, calibrations = load_detector(cfg, str(source / "model_final.pth"))
    machines = {
        "laptop": (Latency(1.0, 1.0), Latency(2.0, 2.0), Latency(3.0, 3.0)),
        "board": (Latency(100.0, 100.0), Latency(200.0, 200.0), Latency(300.0, 300.0)),
    }
    entries = tuple(
        dataclasses.replace(entry, latency=dict(zip(machines, latencies, strict=True)))
        for entry, *latencies in zip(ENTRIES, *machines.values(), strict=True)
    )
    return cfg, model, calibrations, make_table(calibrations, entries)


def test_milliseconds_are_those_of_the_device_it_runs_on(elsewhere, image):
    predictor = BudgetPredictor(*elsewhere)
    with pytest.raises(
        BudgetError, match=f"of the device '{re.escape(HERE)}'; it has: 'laptop', 'board'.*pro"
    ):
        predictor(image, milliseconds=250)
    assert predictor(image, gflops=1).point == ENTRIES[0].point


@pytest.mark.parametrize(("device", "entry"), [("laptop", 2), ("board", 1)])
def test_milliseconds_of_a_device_that_is_chosen(elsewhere, image, device, entry):
    predictor = BudgetPredictor(*elsewhere, latency_device=device)
    assert predictor(image, milliseconds=250).point == ENTRIES[entry].point


def test_without_a_budget_it_takes_the_best_point_if_another_is_dearer(elsewhere, image):
    cfg, model, calibrations, table = elsewhere
    first, second, _ = ENTRIES
    fast = dataclasses.replace(second, latency={HERE: Latency(1.0, 1.0)}, box_ap=5.0)
    predictor = BudgetPredictor(cfg, model, calibrations, make_table(calibrations, (first, fast)))
    assert predictor(image).point == first.point


def test_a_latency_device_that_the_table_lacks_is_refused(folder):
    with pytest.raises(
        BudgetError, match=f"query_table.json: .*device 'phone'; it has: '{re.escape(HERE)}'"
    ):
        BudgetPredictor.from_pretrained(folder, latency_device="phone")


# Other models -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["retinanet", "semantic_fpn", "panoptic_fpn"])
def test_gives_what_the_model_gives(name, image):
    cfg = load_config(
        f"configs/mutual_{name}_mbv2.yaml",
        [
            *("MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", "0"),
            *("MODEL.FPN.OUT_CHANNELS", "32", "MUTUALNET.RESOLUTIONS", "(64, 32)"),
            *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TEST", "128"),
        ],
    )
    model, point = build_random(cfg), OperatingPoint(0.25, 32)
    calibrations = calibrated(model, [point], ((64, 96), (64, 96)))
    table = make_table(calibrations, ENTRIES[:1])
    prediction = BudgetPredictor(cfg, model, calibrations, table)(image)
    expected = by_hand(cfg, model, calibrations, image, point)
    assert prediction.output.keys() == expected.keys()
    for key, value in expected.items():
        output = prediction.output[key]
        if key == "instances":
            assert torch.equal(output.scores, value.scores)
            assert torch.equal(prediction.instances.pred_boxes.tensor, value.pred_boxes.tensor)
        elif key == "panoptic_seg":
            assert torch.equal(output[0], value[0]) and output[1] == value[1]
        else:
            assert torch.equal(output, value)
    if "instances" not in expected:
        with pytest.raises(AttributeError, match="finds no objects; its output holds sem_seg"):
            _ = prediction.instances


def test_a_classifier_sees_what_its_evaluation_sees(image):
    cfg = load_config("configs/pretrain_shapes.yaml", ["MODEL.DEVICE", "cpu"])
    point = OperatingPoint(float(cfg.MUTUALNET.WIDTH_RANGE[0]), cfg.MUTUALNET.RESOLUTIONS[-1])
    model = build_random(cfg)
    calibrations = calibrated(model, [point])
    entry = QueryEntry(point, 1.0, top1=50.0)
    table = QueryTable((entry,), "top1", calibrations.fingerprint(), "shapes")
    predictor = BudgetPredictor(cfg, model, calibrations, table)
    pixels = read_image(image, format=cfg.INPUT.FORMAT)
    (seen,) = evaluation_images(cfg, [pixels], point.resolution)
    with calibrations.at(point), torch.no_grad():
        expected = model([{"image": seen}])[0]["scores"]
    for given in (image, np.asarray(Image.open(image))[..., ::-1]):
        torch.testing.assert_close(predictor(given).output["scores"], expected)


# Folders ------------------------------------------------------------------------------------------


def edit_table(folder, **changes):
    path = folder / "grid/query_table.json"
    path.write_text(dataclasses.replace(QueryTable.load(path), **changes).to_json())


def test_the_table_in_the_folder_itself_comes_first(folder, image):
    table = QueryTable.load(folder / "grid/query_table.json")
    cheap = dataclasses.replace(table, entries=ENTRIES[:1])
    (folder / "query_table.json").write_text(cheap.to_json())
    predictor = BudgetPredictor.from_pretrained(str(folder))
    assert predictor.table == cheap
    assert predictor(image).point == ENTRIES[0].point


def test_a_config_of_half_precision_loads_on_the_cpu(folder):
    text = (folder / "config.yaml").read_text()
    assert "AMP:\n    ENABLED: false" in text
    text = text.replace("AMP:\n    ENABLED: false", "AMP:\n    ENABLED: true")
    (folder / "config.yaml").write_text(text.replace("DEVICE: cpu", "DEVICE: cuda"))
    assert BudgetPredictor.from_pretrained(folder, device="cpu").device.type == "cpu"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.yaml", r"has no config\.yaml, which `mutualnet train` writes"),
        ("model_final.pth", r"has no model_final\.pth.* --resume` goes on"),
        (
            "grid/query_table.json",
            r"neither query_table\.json nor grid/query_table\.json.*`mutualnet evaluate --config-f",
        ),
    ],
)
def test_a_missing_file_is_named(folder, name, message):
    (folder / name).unlink()
    with pytest.raises(PredictorError, match=message):
        BudgetPredictor.from_pretrained(folder)


@pytest.fixture
def lacking(folder):
    """A folder whose checkpoint lacks the dearest point of the table, and all its calibrations."""
    cfg = load_config(str(folder / "config.yaml"))
    model, calibrations = load_detector(cfg, str(folder / "model_final.pth"))
    state = calibrations.state_dict()
    del state["points"][str(POINTS[-1])]
    MutualCheckpointer(model, cfg, str(folder)).save("model_final", calibrations=state)
    return folder, calibrations


@pytest.mark.parametrize("place", ["grid", "."])
def test_calibrations_of_the_evaluation_are_found(lacking, predictor, image, place):
    folder, calibrations = lacking
    write_calibrations(str(folder / place / "calibrations.pth"), calibrations, POINTS[-1:], {})
    again = BudgetPredictor.from_pretrained(folder)
    assert again.points == predictor.points
    mine, other = (p(image, point=POINTS[-1]).instances for p in (again, predictor))
    assert torch.equal(mine.scores, other.scores)


def test_calibrations_that_are_missing_are_asked_for(lacking):
    folder, _ = lacking
    message = rf"lists {POINTS[-1]}, which there is no calibration of.*Take calibrations\.pth along"
    with pytest.raises(PredictorError, match=message):
        BudgetPredictor.from_pretrained(folder)


def test_calibrations_of_other_weights_are_refused(lacking):
    folder, calibrations = lacking
    with torch.no_grad():
        next(calibrations.model.parameters()).mul_(2)
    calibrations.clear()
    calibrations = calibrated(calibrations.model, POINTS[-1:])
    write_calibrations(str(folder / "calibrations.pth"), calibrations, POINTS[-1:], {})
    with pytest.raises(CheckpointError, match=r"calibrations\.pth was made with other weights"):
        BudgetPredictor.from_pretrained(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(PredictorError, match="There is no folder .*nowhere"):
        BudgetPredictor.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "meta", 3.5])
def test_a_device_that_is_not_there_is_refused_before_loading(folder, device):
    (folder / "model_final.pth").write_bytes(b"none")
    with pytest.raises(PredictorError, match=f"device '{device}' cannot be used here.*'cpu'"):
        BudgetPredictor.from_pretrained(folder, device=device)


def test_a_channel_order_that_is_not_known_is_refused_before_loading(folder):
    (folder / "model_final.pth").write_bytes(b"none")
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("FORMAT: RGB", "FORMAT: L"))
    with pytest.raises(PredictorError, match="INPUT.FORMAT is 'L'"):
        BudgetPredictor.from_pretrained(folder)


def test_a_damaged_table_is_refused_before_loading(folder):
    (folder / "model_final.pth").write_bytes(b"none")
    (folder / "grid/query_table.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(QueryTableError, match=r"query_table\.json: not JSON"):
        BudgetPredictor.from_pretrained(folder)


def test_damaged_weights_are_refused(folder):
    (folder / "model_final.pth").write_bytes(b"none")
    with pytest.raises(CheckpointError, match=r"model_final\.pth .*truncated or not a checkpoint"):
        BudgetPredictor.from_pretrained(folder)


def test_no_code_in_a_config_is_run(folder, tmp_path):
    trace = tmp_path / "trace"
    with (folder / "config.yaml").open("a") as file:
        file.write(f"\nVERSION: !!python/object/apply:os.mkdir [{str(trace)!r}]\n")
    with pytest.raises(ConfigError, match="python/object/apply"):
        BudgetPredictor.from_pretrained(folder)
    assert not trace.exists()


def test_a_table_of_other_weights_is_refused(folder):
    edit_table(folder, model="c0ffee" * 8)
    with pytest.raises(PredictorError, match=r"table\.json: .*other weights.*c0ffee"):
        BudgetPredictor.from_pretrained(folder)


@pytest.mark.parametrize("final", [True, False])
def test_the_best_weights_are_taken_where_the_table_is_of_them(folder, predictor, image, final):
    (folder / "model_final.pth").rename(folder / "model_best.pth")
    if final:
        checkpoint = torch.load(folder / "model_best.pth", weights_only=True)
        del checkpoint["calibrations"]
        next(iter(checkpoint["model"].values())).add_(1)
        torch.save(checkpoint, folder / "model_final.pth")
    again = BudgetPredictor.from_pretrained(folder)
    mine, other = (p(image, point=POINTS[0]).instances for p in (again, predictor))
    assert torch.equal(mine.scores, other.scores)


def test_weights_that_changed_after_calibrating_are_refused(folder):
    path = folder / "model_final.pth"
    checkpoint = torch.load(path, weights_only=True)
    next(iter(checkpoint["model"].values())).add_(1)
    torch.save(checkpoint, path)
    with pytest.raises(PredictorError, match=r"model_final\.pth: .*made with other weights"):
        BudgetPredictor.from_pretrained(folder)


def test_a_table_with_points_that_are_not_calibrated_is_refused(folder):
    more = dataclasses.replace(ENTRIES[-1], point=OperatingPoint(0.75, 64), gflops=3, box_ap=25)
    edit_table(folder, entries=(*ENTRIES[:2], more, ENTRIES[-1]))
    with pytest.raises(PredictorError, match=r"lists 0\.75x64, which .* calibrated are 0\.25x32,"):
        BudgetPredictor.from_pretrained(folder)
