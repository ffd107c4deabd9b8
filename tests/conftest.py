"""What the tests of several folders share: a tiny Mask R-CNN's config, and data to train it on."""

import dataclasses
import shutil
import signal
import subprocess

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import Boxes, Instances, PolygonMasks
from torch import nn

from mutualnet_det import add_mutualnet_config
from mutualnet_det.checkpoint import MutualCheckpointer
from mutualnet_det.data.shapes.objects import SHAPES_VARIANTS, generate_shapes
from mutualnet_det.modeling.build import build_network
from mutualnet_det.runtime import Latency, QueryEntry, QueryTable
from mutualnet_det.runtime.device import device_name
from mutualnet_det.slimmable import Calibrations, OperatingPoint

QUICKSTART = "configs/quickstart_shapes.yaml"


@pytest.fixture(scope="session", autouse=True)
def heed_ctrl_c():
    """What a shell starts in the background, and what that starts, would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def make_tiny_cfg(root, output_dir):
    """The quick start's Mask R-CNN, smaller still: 3 classes, 64 px, CPU. Not frozen."""
    cfg = get_cfg()
    add_mutualnet_config(cfg)
    cfg.merge_from_file(str(root / QUICKSTART))
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(output_dir)),
            *("MODEL.FPN.OUT_CHANNELS", 32, "MODEL.FPN.NORM", "", "MODEL.ROI_BOX_HEAD.FC_DIM", 32),
            *("MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 32),
            *("MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [64], [128]]),
            *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 100, "MODEL.RPN.PRE_NMS_TOPK_TEST", 60),
            *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 50, "MODEL.RPN.POST_NMS_TOPK_TEST", 30),
            *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 32, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16),
            *("MUTUALNET.RESOLUTIONS", (64, 48, 32), "MUTUALNET.GRID.WIDTHS", (0.25, 0.5, 1.0)),
            *("MUTUALNET.CALIBRATION.NUM_IMAGES", 4, "MUTUALNET.CALIBRATION.BATCH_SIZE", 2),
            *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MAX_SIZE_TRAIN", 128),
            *("INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 128),
            *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2),
            *("SOLVER.WARMUP_ITERS", 1, "SOLVER.BASE_LR", 0.01),
        ]
    )
    return cfg


@pytest.fixture
def tiny_cfg(tmp_path, request):
    """The quick start's Mask R-CNN, smaller still: 3 classes, 64 px, CPU. Not frozen."""
    return make_tiny_cfg(request.config.rootpath, tmp_path)


@pytest.fixture(scope="session")
def tiny_shapes(tmp_path_factory):
    """12 generated images of 96 px, as an entry of ``DATASETS.COCO_FORMAT``."""
    variant = dataclasses.replace(SHAPES_VARIANTS["shapes"], image_size=96, sides=(16, 40))
    root = tmp_path_factory.mktemp("data")
    json_file = generate_shapes(variant, str(root), "train", num_images=12, seed=0)
    return ["tiny_shapes", json_file, str(root / variant.name / "train")]


@pytest.fixture(scope="session")
def make_training_cfg(request, tiny_shapes):
    """Makes, for an output folder, ``tiny_cfg`` with ``tiny_shapes`` to train on."""

    def make(output_dir):
        cfg = make_tiny_cfg(request.config.rootpath, output_dir)
        cfg.DATASETS.COCO_FORMAT = [tiny_shapes]
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (tiny_shapes[0],)
        # Smaller still where time goes.
        cfg.MUTUALNET.NUM_RANDOM = 1
        cfg.MUTUALNET.GRID.WIDTHS = (0.25, 1.0)
        cfg.MUTUALNET.GRID.RESOLUTIONS = (64, 32)
        return cfg

    return make


@pytest.fixture
def training_cfg(make_training_cfg, tmp_path):
    """``tiny_cfg`` with ``tiny_shapes`` to train on."""
    return make_training_cfg(tmp_path)


@pytest.fixture
def training_batch():
    """
    Makes Detectron2 training inputs: noise images with boxes and pentagons of 3 classes in them.

    ``training_batch(sizes, objects, seed)``: (height, width) in px and number of objects per image.
    """

    def make(sizes=((64, 96), (80, 64)), objects=(2, 3), seed=0):
        random = np.random.default_rng(seed)
        batch = []
        for (height, width), count in zip(sizes, objects, strict=True):
            image = random.integers(0, 256, (3, height, width), dtype=np.uint8)
            corner = random.uniform(0, 0.5, (count, 2)) * (width, height)
            extent = random.uniform(0.25, 0.5, (count, 2)) * (width, height)
            boxes = np.concatenate([corner, corner + extent], axis=1).astype(np.float32)
            instances = Instances((height, width))
            instances.gt_boxes = Boxes(torch.from_numpy(boxes))
            instances.gt_classes = torch.from_numpy(random.integers(0, 3, count))
            # Left out of each box: its lower right corner.
            instances.gt_masks = PolygonMasks(
                [
                    [np.array([x0, y0, x1, y0, x1, (y0 + y1) / 2, (x0 + x1) / 2, y1, x0, y1])]
                    for x0, y0, x1, y1 in boxes.astype(np.float64)
                ]
            )
            batch.append(
                {
                    "image": torch.from_numpy(image),
                    "instances": instances,
                    "height": height,
                    "width": width,
                    "file_name": f"noise_{len(batch)}.png",
                }
            )
        return batch

    return make


@pytest.fixture(scope="session")
def exit_codes():
    """Waits for processes to end, some seconds for each, and kills it then; their exit codes."""

    def wait(processes, seconds=120):
        for process in processes:
            process.join(seconds)
            process.kill()
            process.join()
        return [process.exitcode for process in processes]

    return wait


@pytest.fixture
def small_disk(tmp_path):
    """Makes a disk of some MiB and returns its folder; skips where that takes other rights."""
    mounted = []

    def make(size):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("mounting a small disk takes the rights of root")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def model_folder(make_training_cfg, tmp_path_factory):
    """
    What a training on ``tiny_shapes`` and its evaluation leave: random weights, calibrated on noise
    at three points, that find many objects and are sure of their classes.
    """
    folder = tmp_path_factory.mktemp("model")
    cfg = make_training_cfg(folder)
    torch.manual_seed(0)
    model = build_network(cfg).eval()
    for name, module in model.named_modules():
        if name.endswith(("objectness_logits", "cls_score")):
            nn.init.normal_(module.weight, std=0.5)
        elif name.endswith(("anchor_deltas", "bbox_pred")):
            nn.init.normal_(module.weight, std=0.05)
    calibrations = Calibrations(model)
    noise = [{"image": torch.randint(0, 256, (3, 64, 64)).float()}]
    device = device_name(torch.device("cpu"))
    entries = []
    for number, name in enumerate(("0.25x32", "0.5x48", "1.0x64"), start=1):
        point = OperatingPoint.parse(name)
        calibrations.calibrate(point, [noise], model)
        latency = {device: Latency(10.0 * number, 11.0 * number)}
        entries.append(QueryEntry(point, 2.0**number, latency, 10.0 * number, 9.0 * number))
    classes = ("circle", "square", "triangle")
    table = QueryTable(tuple(entries), "box_ap", calibrations.fingerprint(), "tiny_shapes", classes)
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "query_table.json").write_text(table.to_json())
    checkpointer = MutualCheckpointer(model, cfg, str(folder))
    checkpointer.save("model_final", calibrations=calibrations.state_dict())
    return folder


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by Playwright; without it the test is skipped."""
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("there is no Chromium on the PATH")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()
