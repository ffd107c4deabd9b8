"""The benchmark runs for every kind of model, and compares what it says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import ResizeTransform
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
from detectron2.utils.events import EventStorage

from mutualnet_det.config import check_config, load_config
from mutualnet_det.data.check import check_datasets
from mutualnet_det.data.shapes.classes import VARIANT, generate_classes
from mutualnet_det.data.shapes.semantic import semantic_records
from mutualnet_det.engine.timing import PARTS
from mutualnet_det.lab.bench import layers, training
from mutualnet_det.slimmable import width_of

NAME = "benchmark_masks"
CONFIGS = {
    "Mask R-CNN": ("quickstart_shapes", []),
    "RetinaNet": (
        "mutual_retinanet_mbv2",
        [
            *("MODEL.RETINANET.NUM_CLASSES", 3),
            *("MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [64], [128]]),
        ],
    ),
    "semantic": (
        "mutual_semantic_fpn_mbv2",
        [
            *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 4, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 16),
            *("DATASETS.TRAIN", (NAME,), "DATASETS.TEST", (NAME,)),
        ],
    ),
}
# What the quick start's config, made small, must not lose to the one merged over it.
KEPT = [
    *("MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.FPN.OUT_CHANNELS", 32, "MODEL.FPN.NORM", "BN"),
    *("MUTUALNET.RESOLUTIONS", (64, 32), "MUTUALNET.GRID.WIDTHS", (0.25, 1.0)),
    *("MUTUALNET.CALIBRATION.BATCH_SIZE", 2, "INPUT.MIN_SIZE_TRAIN", (64,)),
    *("INPUT.MAX_SIZE_TRAIN", 128, "INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 128),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.BASE_LR", 1e-4, "DATALOADER.NUM_WORKERS", 0),
]


@pytest.fixture
def make_cfg(training_cfg, tiny_shapes, tmp_path, request):
    """Makes one of ``CONFIGS`` with generated data."""
    _, json_file, image_root = tiny_shapes
    masks = str(tmp_path / "masks")
    DatasetCatalog.register(NAME, lambda: semantic_records(json_file, image_root, masks))
    MetadataCatalog.get(NAME).set(stuff_classes=["background", *"abc"])

    def make(kind):
        name, overrides = CONFIGS[kind]
        cfg = training_cfg
        if kind != "Mask R-CNN":
            data = ["DATASETS.TRAIN", cfg.DATASETS.TRAIN, "DATASETS.TEST", cfg.DATASETS.TEST]
            kept = [*KEPT, *data, "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path)]
            cfg.merge_from_file(str(request.config.rootpath / f"configs/{name}.yaml"))
            cfg.merge_from_list([*kept, *overrides])
        check_config(cfg)
        check_datasets(cfg)
        return cfg

    yield make
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def check_training(parts, steps):
    assert list(parts) == list(PARTS)
    assert parts.pop("reduce") >= 0 and min(parts.values()) > 0
    mutual, naive, alone, full = steps
    assert mutual.milliseconds == naive.baseline == full.milliseconds
    assert alone.baseline == full.baseline
    # One network alone takes less than the four of which it is one.
    assert full.baseline < mutual.baseline and min(s.ratio for s in steps) > 0
    # The split is of the mutual step, but for the loader's work.
    assert 0.5 < (sum(parts.values()) - parts["data"]) / mutual.milliseconds < 1.001


@pytest.mark.parametrize("kind", CONFIGS)
def test_compares_every_detector(make_cfg, kind):
    cfg = make_cfg(kind)
    inference = layers.compare_inference(cfg, 1)
    assert [pair.name for pair in inference] == [
        f"inference at {point}, against plain layers" for point in ("0.25x64", "1.00x64")
    ]
    switching = layers.compare_switching(cfg, 1)
    assert len(switching) == 2
    for pair in (*inference, *switching):
        assert pair.milliseconds > 0 and pair.baseline > 0
        assert pair.ratio == pytest.approx(pair.milliseconds / pair.baseline)
    parts, steps = training.compare_steps(cfg, 1)
    check_training(parts, steps)


def test_compares_classifiers_too(request, tmp_path):
    folder = Path(generate_classes(VARIANT, str(tmp_path / "data"), 20, 0))
    source = next(folder.glob("*/*.jpg"))
    for class_ in (path for path in folder.iterdir() if path.is_dir()):
        if not any(class_.iterdir()):
            (class_ / f"more_{class_.name}.jpg").write_bytes(source.read_bytes())
    name = f"benchmark_classes_{tmp_path.name}"
    cfg = load_config(
        str(request.config.rootpath / "configs/pretrain_shapes.yaml"),
        [
            *("MODEL.DEVICE", "cpu", "MUTUALNET.RESOLUTIONS", "(64, 48, 32)"),
            *("DATASETS.IMAGE_FOLDERS", str([[name, str(folder)]])),
            *("DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)"),
            *("MUTUALNET.CALIBRATION.BATCH_SIZE", "4", "SOLVER.IMS_PER_BATCH", "4"),
            *("DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path)),
        ],
    )
    check_datasets(cfg)
    assert all(pair.ratio > 0 for pair in layers.compare_inference(cfg, 1))
    check_training(*training.compare_steps(cfg, 1))
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.mark.parametrize("bitmasks", [False, True])
def test_a_plain_training_has_all_ground_truth_at_the_views_scale(bitmasks):
    """As Detectron2's own resizing gives it."""
    polygon = np.array([4.0, 6.0, 40.0, 6.0, 40.0, 30.0, 4.0, 30.0])
    instances = Instances((48, 96))
    instances.gt_boxes = Boxes(torch.tensor([[4.0, 6.0, 40.0, 30.0]]))
    instances.gt_masks = PolygonMasks([[polygon]])
    if bitmasks:
        instances.gt_masks = BitMasks.from_polygon_masks(instances.gt_masks, 48, 96)
    instances.gt_keypoints = Keypoints(torch.tensor([[[10.0, 20.0, 2.0], [30.0, 8.0, 1.0]]]))
    labels = torch.arange(2).repeat_interleave(48).expand(48, 96)
    batch = [{"image": torch.zeros(3, 48, 96), "instances": instances, "sem_seg": labels}]
    (view,) = training.naive_view(batch, 24, 40, "cpu")  # the cap makes it 20 x 40 px
    assert view["image"].shape == (3, 20, 40) and view["source_size"] == (20, 40)
    resize = ResizeTransform(48, 96, 20, 40)
    expected = resize.apply_coords(polygon.reshape(-1, 2))
    viewed = view["instances"]
    if bitmasks:
        (mask,) = viewed.gt_masks.tensor.numpy()
        assert mask.shape == (20, 40)
        rows, columns = mask.nonzero()
        corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.abs(corners - np.concatenate([expected.min(0), expected.max(0)])).max() <= 1
    else:
        np.testing.assert_allclose(viewed.gt_masks.polygons[0][0].reshape(-1, 2), expected)
    points = resize.apply_coords(np.array([[10.0, 20.0], [30.0, 8.0]]))
    np.testing.assert_allclose(viewed.gt_keypoints.tensor[0, :, :2], points, rtol=1e-6)
    assert viewed.gt_keypoints.tensor[0, :, 2].tolist() == [2, 1]
    assert torch.equal(view["sem_seg"], torch.arange(2).repeat_interleave(20).expand(20, 40))
    # The batch is seen again, by other passes.
    assert batch[0]["sem_seg"] is labels and instances.gt_keypoints.tensor[0, 0, 0] == 10


def test_naive_students_bring_proposals_of_their_own_and_are_taught_on_them(training_cfg):
    cfg = training_cfg
    check_datasets(cfg)
    trainer = training.NaiveTrainer(cfg)
    trainer.prepare(0)
    calls = []
    model = trainer.model
    for name in ("backbone", "proposal_generator.rpn_head"):
        model.get_submodule(name).register_forward_hook(
            lambda *_, name=name: calls.append((name, width_of(model).value))
        )
    with EventStorage(0) as trainer.storage:
        trainer.run_step()
    num_students = 1 + cfg.MUTUALNET.NUM_RANDOM
    # The full network once as the teacher, and once more for each student.
    assert calls.count(("backbone", 1.0)) == 1 + num_students
    assert sum(name == "proposal_generator.rpn_head" for name, _ in calls) == 1 + num_students


def test_peak_memory_is_that_of_processes_that_train(training_cfg):
    memory = training.compare_memory(training_cfg, 1)
    # Importing torch alone takes more.
    assert 200 < memory.baseline < 5000 and 0.5 < memory.ratio < 2
