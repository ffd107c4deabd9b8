"""Mean IoU, against Detectron2's own evaluator and by hand; which models and masks are taken."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from PIL import ExifTags, Image

from mutualnet_det.calibration import calibrate_points
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.data.images import read_record
from mutualnet_det.evaluation import evaluate_grid
from mutualnet_det.evaluation.progress import ProgressError
from mutualnet_det.evaluation.semantic import SemanticScorer, _with_size
from mutualnet_det.slimmable import Calibrations, OperatingPoint

NAME = "scored_masks"
CLASSES = ["background", "a", "b", "never there"]


@pytest.fixture
def records(tmp_path):
    """Masks of three classes, with ignored pixels, registered in Detectron2's semantic format."""
    generator = np.random.default_rng(0)
    listed = []
    for index, size in enumerate([(6, 8), (5, 5), (9, 4)]):
        truth = generator.integers(0, 3, size, dtype=np.uint8)
        truth[0, :2] = 255
        path = tmp_path / f"{index}.png"
        Image.fromarray(truth).save(path)
        image = str(tmp_path / f"{index}.jpg")
        listed.append({"file_name": image, "sem_seg_file_name": str(path), "image_id": index})
    DatasetCatalog.register(NAME, lambda: listed)
    MetadataCatalog.get(NAME).set(stuff_classes=CLASSES, ignore_label=255)
    yield listed
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture
def scorer(tiny_cfg, records):
    tiny_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    return SemanticScorer(tiny_cfg, NAME)


def predictions(records):
    generator = torch.Generator().manual_seed(1)
    for record in records:
        width, height = Image.open(record["sem_seg_file_name"]).size
        yield torch.randint(0, 4, (height, width), generator=generator)


def test_equals_detectron2s_evaluator(scorer, records, tmp_path):
    evaluator = SemSegEvaluator(
        NAME,
        distributed=False,
        output_dir=str(tmp_path / "out"),
        # Its default does not work with NumPy 2.
        sem_seg_loading_fn=lambda path, dtype: np.asarray(Image.open(path)).astype(dtype),
    )
    evaluator.reset()
    confusions = []
    for record, classes in zip(records, predictions(records), strict=True):
        logits = torch.nn.functional.one_hot(classes, 4).permute(2, 0, 1).float()
        evaluator.process([record], [{"sem_seg": logits}])
        confusions.append(scorer.confusion(classes, record))
    expected = evaluator.evaluate()["sem_seg"]
    scores = scorer.score(confusions)
    assert scores["mIoU"] == pytest.approx(expected["mIoU"])
    assert scores["accuracy"] == pytest.approx(expected["pACC"])
    for name in CLASSES[:3]:
        assert scores["per_class"][name] == pytest.approx(expected[f"IoU-{name}"])
    assert scores["per_class"]["never there"] is None


def test_by_hand(scorer):
    # Class 0: 3 of 4 hit and 1 too many; class 1: 1 of 2 hit and 1 too many.
    scores = scorer.score([[(0, 0, 2), (0, 1, 1)], [(0, 0, 1), (1, 1, 1), (1, 0, 1)]])
    assert scores["per_class"]["background"] == pytest.approx(100 * 3 / 5)
    assert scores["per_class"]["a"] == pytest.approx(100 * 1 / 3)
    assert scores["mIoU"] == pytest.approx((60 + 100 / 3) / 2)
    assert scores["accuracy"] == pytest.approx(100 * 4 / 6)


def test_a_mask_of_another_size_is_named(scorer, records):
    with pytest.raises(DatasetError, match="0.png is 8 x 6 px, its image 6 x 6"):
        scorer.confusion(torch.zeros(6, 6, dtype=torch.int64), records[0])


def test_a_mask_with_an_unknown_class_is_named(scorer, records):
    path = records[1]["sem_seg_file_name"]
    Image.fromarray(np.full((5, 5), 9, np.uint8)).save(path)
    with pytest.raises(DatasetError, match="1.png holds the class 9; .*NUM_CLASSES is 4"):
        scorer.confusion(torch.zeros(5, 5, dtype=torch.int64), records[1])
    with open(records[2]["sem_seg_file_name"], "wb") as file:
        file.write(b"no image")
    with pytest.raises(DatasetError, match="Cannot evaluate on .*2.png"):
        scorer.confusion(torch.zeros(9, 4, dtype=torch.int64), records[2])


def test_a_mask_in_colour_is_named(scorer, records):
    path = records[1]["sem_seg_file_name"]
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(path)
    with pytest.raises(DatasetError, match="1.png has 3 channels; expected one"):
        scorer.confusion(torch.zeros(5, 5, dtype=torch.int64), records[1])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_of_an_image_is_that_of_the_upright_one(tmp_path, orientation):
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (60, 40)).save(path, exif=exif)
    record = {"file_name": str(path)}
    sized = _with_size(record)
    assert (sized["height"], sized["width"]) == read_record(record, "RGB").shape[:2]


# The task -----------------------------------------------------------------------------------------

POINTS = [OperatingPoint(0.25, 32), OperatingPoint(1.0, 48)]


@pytest.fixture
def cfg(tiny_cfg, request, records):
    """A config of semantic segmentation, small, with an image of noise for every mask."""
    output_dir = tiny_cfg.OUTPUT_DIR
    tiny_cfg.merge_from_file(str(request.config.rootpath / "configs/mutual_semantic_fpn_mbv2.yaml"))
    tiny_cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "MODEL.FPN.OUT_CHANNELS", 32, "OUTPUT_DIR", output_dir),
            *("MODEL.BACKBONE.FREEZE_AT", 0),
            *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 4, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 16),
            *("MUTUALNET.RESOLUTIONS", (48, 32), "INPUT.MAX_SIZE_TEST", 96),
            *("DATASETS.TRAIN", (NAME,), "DATASETS.TEST", (NAME,)),
            *("MUTUALNET.CALIBRATION.NUM_IMAGES", 2),
        ]
    )
    generator = np.random.default_rng(2)
    for record in records:
        size = Image.open(record["sem_seg_file_name"]).size
        pixels = generator.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(record["file_name"])
    return tiny_cfg


def evaluate(cfg, model, output, **options):
    calibrations = Calibrations(model)
    calibrate_points(cfg, model, calibrations, POINTS)
    return evaluate_grid(cfg, model, calibrations, POINTS, output, **options)


@pytest.mark.parametrize("norm", ["BN", ""])
def test_detectron2s_own_segmentor_is_evaluated_too(cfg, make_model, tmp_path, norm):
    """It has no method for what is done to images before the network."""
    cfg.MODEL.SEM_SEG_HEAD.NORM = norm
    mutual = make_model(cfg)
    torch.nn.init.normal_(mutual.sem_seg_head.predictor.weight)
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    plain = make_model(cfg)
    assert not hasattr(plain, "preprocess_image")
    plain.load_state_dict(mutual.state_dict())
    expected = evaluate(cfg, mutual, tmp_path / "mutual")
    actual = evaluate(cfg, plain, tmp_path / "plain")
    assert [row.scores for row in actual.rows] == [row.scores for row in expected.rows]
    assert len({row.score("semantic") for row in actual.rows}) == 2


def test_masks_that_have_changed_are_not_continued_with(cfg, make_model, records, tmp_path):
    model = make_model(cfg)
    evaluate(cfg, model, tmp_path / "grid")
    path = Path(records[1]["sem_seg_file_name"])
    written = path.read_bytes()
    path.write_bytes(written)  # the same again
    evaluate(cfg, model, tmp_path / "grid", resume=True)
    truth = np.array(Image.open(path))
    truth[2, 2] = (truth[2, 2] + 1) % 3
    Image.fromarray(truth).save(path)
    with pytest.raises(ProgressError, match="differs in ground truth"):
        evaluate(cfg, model, tmp_path / "grid", resume=True)
    path.unlink()
    with pytest.raises(DatasetError, match=f"Cannot evaluate on {path}"):
        evaluate(cfg, model, tmp_path / "grid", resume=True)
