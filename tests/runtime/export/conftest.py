"""Models that find something on one image and nothing on another, without a training."""

import copy
from operator import and_, or_
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import read_image
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from mutualnet_det import load_config
from mutualnet_det.checkpoint import MutualCheckpointer
from mutualnet_det.modeling.build import build_network
from mutualnet_det.runtime import QueryEntry, QueryTable
from mutualnet_det.runtime.export import export_point
from mutualnet_det.runtime.pretrained import load_pretrained
from mutualnet_det.slimmable import Calibrations, OperatingPoint

PHOTOS = Path(__file__).parents[3] / "../shared/data/coco_mini/val2017"
POINTS = tuple(OperatingPoint(width, side) for width in (0.25, 0.5, 1.0) for side in (48, 64))
THRESHOLD = 0.83


def as_input(pixels, side):
    """Pixels (H, W, 3) as a model sees them, about as large as ``side``."""
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
    scale = side / min(pixels.shape[:2])
    return F.interpolate(image, scale_factor=scale, mode="bilinear", antialias=True)[0]


def random_model(cfg):
    """The config's model, with weights far from zero that a mistake in slicing would show."""
    torch.manual_seed(0)
    model = build_network(cfg).eval()
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if name.endswith(("objectness_logits", "mask_head.predictor", "score_lowres")):
            nn.init.normal_(module.weight, std=0.5)
        elif name.endswith(("anchor_deltas", "bbox_pred")):
            nn.init.normal_(module.weight, std=0.05)
        elif "_subnet." in name and isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for name, module in model.named_modules():
        if name.endswith("cls_score"):
            nn.init.normal_(module.weight, std=0.5)
    return model


def learn_background(model, calibrations, points, empty, full):
    """
    Make the box head's classes tell ``empty`` from ``full`` images: the background's weights by a
    ridge regression on the features of their proposals, at all points together.
    """
    predictor = model.roi_heads.box_predictor.cls_score
    features, targets, seen = [], [], []
    hook = model.roi_heads.box_head.register_forward_hook(lambda *args: seen.append(args[-1]))
    for point in points:
        for image, target in [(empty, 8.0)] * len(full) + [(image, -8.0) for image in full]:
            with calibrations.at(point), torch.no_grad():
                model.inference([{"image": as_input(image, point.resolution)}])
            proposals = seen.pop()
            features.append(F.pad(proposals, (0, predictor.in_features - proposals.shape[1])))
            targets.append(torch.full((len(proposals),), target))
    hook.remove()
    x, y = torch.cat(features), torch.cat(targets)
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    *weight, bias = torch.linalg.solve(x.t() @ x + 0.1 * torch.eye(x.shape[1]), x.t() @ y)
    with torch.no_grad():
        predictor.weight *= 0.03
        predictor.weight[-1] = torch.stack(weight)
        predictor.bias.copy_(torch.tensor([4.0, 2.0, 0.0, bias + 3]))


def save(folder, cfg, points, empty, full):
    """The folder of a model; every point but the last is in its query table."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(cfg.dump())
    cfg = load_config(str(folder / "config.yaml"))
    model = random_model(cfg)
    for learnt in (False, True):
        calibrations = Calibrations(model)
        for point in points:
            batch = [{"image": as_input(image, point.resolution)} for image in full[:2]]
            calibrations.calibrate(point, [batch])
        if learnt or not hasattr(model, "roi_heads") or cfg.MODEL.ROI_HEADS.NUM_CLASSES != 3:
            break
        if isinstance(model.roi_heads.box_head, nn.ModuleList):  # a cascade
            break
        learn_background(model, calibrations, points, empty, full)
    checkpointer = MutualCheckpointer(model, cfg, str(folder))
    checkpointer.save("model_final", calibrations=calibrations.state_dict())
    entries = tuple(
        QueryEntry(point, gflops=1.25 + index, box_ap=10.5 + index, mask_ap=9.5 + index)
        for index, point in enumerate(points[:-1] or points)
    )
    names = ("circle", "square", "triangle")[: cfg.MODEL.ROI_HEADS.NUM_CLASSES]
    table = QueryTable(entries, "box_ap", calibrations.fingerprint(), "tiny_shapes", names)
    (folder / "query_table.json").write_text(table.to_json())
    return folder


@pytest.fixture(scope="session")
def points():
    """The operating points of a model, if a test asks for no others."""
    return POINTS


@pytest.fixture(scope="session")
def assert_same():
    """
    ``assert_same(expected, actual, size)``: the same detections, at the network's scale, compared
    on an image of that height and width. None of the scores may be at the threshold.
    """

    def check(expected, actual, size):
        expected, actual = (
            detector_postprocess(copy.deepcopy(x), *size) for x in (expected, actual)
        )
        assert len(actual) == len(expected)
        overlap = box_iou(expected.pred_boxes.tensor, actual.pred_boxes.tensor)
        overlap[expected.pred_classes[:, None] != actual.pred_classes] = 0
        for index in range(len(expected)):
            other = overlap[index].argmax()
            assert overlap[index, other] > 0.9
            one, other = expected[index], actual[int(other)]
            box = (one.pred_boxes.tensor - other.pred_boxes.tensor).abs().max()
            assert box <= 0.1 and (one.scores - other.scores).abs() <= 1e-3
            assert one.has("pred_masks") == other.has("pred_masks")
            if one.has("pred_masks") and one.pred_masks.any():
                both, either = (f(one.pred_masks, other.pred_masks) for f in (and_, or_))
                # A pixel at the mask's threshold may fall on either side, also in a small mask.
                assert either.sum() - both.sum() <= max(1, 0.01 * either.sum())

    return check


@pytest.fixture(scope="session")
def source_finds():
    """``source_finds(model, point, images)``: detections of the slimmable model on a batch."""

    def find(model, point, images):
        with model.calibrations.at(point), torch.no_grad():
            if isinstance(model.model, GeneralizedRCNN):
                return model.model.inference([{"image": x} for x in images], do_postprocess=False)
            return [x["instances"] for x in model.model([{"image": x} for x in images])]

    return find


@pytest.fixture(scope="session")
def seen():
    """``seen(cfg, file, side)``: what the model of a config sees of a file, and the file's size."""

    def see(cfg, file, side):
        pixels = read_image(file, cfg.INPUT.FORMAT)
        resize = ResizeShortestEdge(side, cfg.INPUT.MAX_SIZE_TEST).get_transform(pixels)
        image = np.ascontiguousarray(resize.apply_image(pixels).transpose(2, 0, 1))
        return torch.from_numpy(image), pixels.shape[:2]

    return see


@pytest.fixture(scope="session")
def noise():
    """Images (H, W, 3) of coarse noise, of four shapes."""
    random = np.random.default_rng(0)
    return [
        random.integers(0, 256, (height, width, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        for height, width in ((12, 16), (16, 12), (12, 12), (10, 24))
    ]


@pytest.fixture(scope="session")
def grey():
    """An image (H, W, 3) without anything."""
    return np.full((96, 128, 3), 120, np.uint8)


@pytest.fixture(scope="session")
def make_folder(make_training_cfg, tmp_path_factory, noise, grey):
    """
    ``make_folder(*overrides, points=..., empty=..., full=...)``: the folder of a model that finds
    nothing on the image ``empty`` and something on the images ``full``.
    """
    made = {}

    def make(*overrides, points=POINTS, empty=grey, full=tuple(noise)):
        key = (str(overrides), points, id(empty))
        if key not in made:
            folder = tmp_path_factory.mktemp("models") / "model"
            cfg = make_training_cfg(folder)
            cfg.merge_from_list(
                [
                    *("MODEL.ROI_BOX_HEAD.FC_DIM", 256),
                    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", THRESHOLD),
                    *overrides,
                ]
            )
            made[key] = save(folder, cfg, points, empty, full)
        return made[key]

    return make


@pytest.fixture(scope="session")
def make_model(make_folder):
    """The same, loaded."""
    loaded = {}

    def make(*args, **kwargs):
        folder = make_folder(*args, **kwargs)
        return loaded.setdefault(folder, load_pretrained(folder, "cpu"))

    return make


@pytest.fixture(scope="session")
def files(tmp_path_factory, noise, grey):
    """The noise and the grey image as files."""
    folder = tmp_path_factory.mktemp("images")
    for index, image in enumerate([*noise, grey]):
        Image.fromarray(image).save(folder / f"{index}.png")
    return sorted(map(str, folder.iterdir()))


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Twenty real images as files; the first is a piece of sky, with no object in it."""
    if not PHOTOS.is_dir():
        pytest.skip(f"needs {PHOTOS}")
    sky = tmp_path_factory.mktemp("photos") / "sky.png"
    with Image.open(PHOTOS / "000000101787.jpg") as photo:
        photo.crop((64, 48, 192, 144)).save(sky)
    return [str(sky), *sorted(map(str, PHOTOS.iterdir()))[:19]]


@pytest.fixture(scope="session")
def photo_pixels(photos):
    """The first five of them, (H, W, 3)."""
    return [read_image(file, "RGB") for file in photos[:5]]


@pytest.fixture(scope="session")
def exported(make_model, files, tmp_path_factory):
    """``exported(name)``: the folder of 0.50x48 of ``make_model()`` in the format of that name."""
    folder = tmp_path_factory.mktemp("exported")

    def get(name):
        if not (folder / name).exists():
            export_point(make_model(), OperatingPoint(0.5, 48), name, folder / name, files[3:])
        return folder / name

    return get
