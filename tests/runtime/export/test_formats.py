"""The formats: other sizes than they were written with, batches, what they need, other models."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model

from mutualnet_det import load_config
from mutualnet_det.runtime.export import FORMATS, ExportError, detectron2, export_point
from mutualnet_det.runtime.export.plain import plain_network
from mutualnet_det.slimmable import OperatingPoint, SlimmableLayer, sliced

HALF = OperatingPoint(0.5, 48)


def image(seed, height, width):
    """A network's input (3, H, W) of coarse noise."""
    random = np.random.default_rng(seed)
    cells = random.integers(0, 256, (3, height // 8 + 1, width // 8 + 1), dtype=np.uint8)
    return torch.from_numpy(cells.repeat(8, 1).repeat(8, 2)[:, :height, :width].copy())


@pytest.mark.parametrize("name", FORMATS)
def test_any_size(make_model, exported, source_finds, assert_same, name):
    model = make_model()
    run = FORMATS[name].load(exported(name))
    total = 0
    for height, width in [(64, 96), (48, 128), (131, 48), (1, 200), (40, 1), (300, 220)]:
        seen = image(0, height, width)
        (expected,) = source_finds(model, HALF, [seen])
        assert_same(expected, run([seen])[0], (2 * height, 2 * width))
        total += len(expected)
    assert total > 50


@pytest.mark.parametrize("name", ["detectron2", "torchscript"])
def test_batches_of_any_sizes(make_model, exported, source_finds, assert_same, name):
    model = make_model()
    run = FORMATS[name].load(exported(name))
    grey = torch.full((3, 70, 60), 120, dtype=torch.uint8)
    for batch in (
        [image(1, 48, 64), image(2, 90, 48), grey, image(3, 60, 60)],
        [image(4, 64, 64), image(5, 64, 64)],
        [grey, grey],
    ):
        expected = source_finds(model, HALF, batch)
        for own, actual, seen in zip(expected, run(batch), batch, strict=True):
            assert_same(own, actual, tuple(seen.shape[1:]))
    assert len(expected[0]) == 0


def run_alone(code, absent, cwd):
    """Run code in a Python in which some packages cannot be imported; its output."""
    block = "".join(f"sys.modules[{name!r}] = None\n" for name in absent)
    code = f"import sys\n{block}{textwrap.dedent(code)}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torchscript_needs_torchvision_alone(make_model, exported, source_finds, tmp_path):
    seen = image(0, 64, 96)
    np.save(tmp_path / "image.npy", seen.numpy())
    shown = run_alone(
        f"""
        import numpy as np, torch, torchvision
        model = torch.jit.load({str(exported("torchscript") / "model.ts")!r})
        for image in (torch.from_numpy(np.load("image.npy")), torch.zeros(3, 40, 50)):
            (outputs,) = model([image])
            print(sorted(outputs), *outputs["masks"].shape)
        """,
        ["detectron2", "mutualnet_det"],
        tmp_path,
    )
    (expected,) = source_finds(make_model(), HALF, [seen])
    first = f"['boxes', 'classes', 'masks', 'scores'] {len(expected)} 28 28"
    assert shown.splitlines()[0] == first


# Detectron2 ---------------------------------------------------------------------------------------


def slimmable_layers(module):
    return [m for m in module.modules() if isinstance(m, SlimmableLayer)]


def test_detectron2_has_no_slimmable_layer_left(make_model, exported):
    folder = exported("detectron2")
    assert not detectron2.is_stock(folder)
    built = build_model(load_config(str(folder / "config.yaml")))
    model = make_model()
    with model.calibrations.at(HALF):
        plain = sliced(model.model)
    assert slimmable_layers(model.model) and not slimmable_layers(built)
    shapes, expected = (
        {name: value.shape for name, value in network.state_dict().items()}
        for network in (built, plain)
    )
    assert shapes == expected


RESNET = ("MODEL.FPN.BOTTOM_UP", "build_slimmable_resnet_backbone")


@pytest.mark.parametrize("scope", ["heads", pytest.param("backbone", marks=pytest.mark.slow)])
def test_a_resnet_loads_in_detectron2_as_it_is(
    make_model, source_finds, noise, files, tmp_path, scope
):
    model = make_model(*RESNET, "MUTUALNET.SCOPE", scope, "MODEL.FPN.NORM", "BN", points=(HALF,))
    export_point(model, HALF, "detectron2", tmp_path / "export", files[:2])
    assert detectron2.is_stock(tmp_path / "export")
    np.save(tmp_path / "export/image.npy", noise[0])
    shown = run_alone(
        """
        import numpy as np
        from detectron2.config import get_cfg
        from detectron2.engine import DefaultPredictor
        cfg = get_cfg()
        cfg.merge_from_file("config.yaml")
        predictor = DefaultPredictor(cfg)
        instances = predictor(np.load("image.npy")[..., ::-1])["instances"]
        print(type(predictor.model).__name__, predictor.model.backbone.bottom_up.stem.out_channels)
        print(len(instances), instances.scores[0].item())
        """,
        ["mutualnet_det"],
        tmp_path / "export",
    )
    kind, scores = shown.splitlines()
    assert kind == "GeneralizedRCNN 32"
    resize = ResizeShortestEdge(HALF.resolution, model.cfg.INPUT.MAX_SIZE_TEST)
    seen = resize.get_transform(noise[0]).apply_image(noise[0]).transpose(2, 0, 1)
    (expected,) = source_finds(model, HALF, [torch.from_numpy(seen.copy())])
    count, best = scores.split()
    assert int(count) == len(expected) > 0
    assert float(best) == pytest.approx(expected.scores[0].item(), abs=1e-3)


@pytest.mark.parametrize(
    ("point", "scope"), [(OperatingPoint(0.4, 48), "heads"), (HALF, "neck")], ids=str
)
def test_a_resnet_that_detectron2_lacks_needs_this_project(make_model, tmp_path, point, scope):
    model = make_model(*RESNET, "MUTUALNET.SCOPE", scope, points=(point,))
    detectron2.write(plain_network(model, point), model.cfg, point, tmp_path)
    assert not detectron2.is_stock(tmp_path)


# Other models -------------------------------------------------------------------------------------

FASTER = ("MODEL.MASK_ON", False)
AGNOSTIC = (
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
    *("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True),
)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (FASTER, "torchscript"),
        (AGNOSTIC, "onnx"),
        pytest.param(FASTER, "onnx", marks=pytest.mark.slow),
        pytest.param(AGNOSTIC, "torchscript", marks=pytest.mark.slow),
    ],
    ids=["faster", "agnostic", "faster", "agnostic"],
)
def test_faster_rcnn_and_boxes_without_classes(make_model, files, tmp_path, overrides, name):
    model = make_model(*overrides, points=(HALF,))
    agreement = export_point(model, HALF, name, tmp_path / "export", files)
    assert agreement.images == 5 and agreement.detections > 20
    assert (agreement.mask_iou is None) == (overrides is FASTER)


@pytest.mark.parametrize(
    "name", ["detectron2", "torchscript", pytest.param("onnx", marks=pytest.mark.slow)]
)
def test_group_normalisation(make_model, files, tmp_path, name):
    model = make_model("MUTUALNET.NORM", "GN", "MODEL.FPN.NORM", "BN", points=(HALF,))
    agreement = export_point(model, HALF, name, tmp_path / "export", files)
    assert agreement.images == 5 and agreement.detections > 20


def test_a_resnet_with_group_normalisation_needs_this_project(make_model, files, tmp_path):
    model = make_model(*RESNET, "MUTUALNET.NORM", "GN", points=(HALF,))
    export_point(model, HALF, "detectron2", tmp_path / "export", files)
    assert not detectron2.is_stock(tmp_path / "export")


CASCADE = (
    *("MODEL.ROI_HEADS.NAME", "SlimmableCascadeROIHeads"),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.05),
)
KEYPOINT = (
    *("MODEL.KEYPOINT_ON", True, "MODEL.MASK_ON", False, "MODEL.ROI_HEADS.NUM_CLASSES", 1),
    *("MODEL.ROI_KEYPOINT_HEAD.NAME", "SlimmableKRCNNConvDeconvUpsampleHead"),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [16], "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.05),
)
RETINANET = (
    *("MODEL.META_ARCHITECTURE", "MutualRetinaNet", "MODEL.MASK_ON", False),
    *("MODEL.BACKBONE.NAME", "build_slimmable_retinanet_fpn_backbone"),
    *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"], "MODEL.RETINANET.NUM_CLASSES", 3),
    *("MODEL.RETINANET.SCORE_THRESH_TEST", 0.05),
    *("MUTUALNET.LOSS_WEIGHTS.MASK", 0.0),
)


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (CASCADE, "a Cascade R-CNN"),
        (KEYPOINT, "a Keypoint R-CNN"),
        (RETINANET, "a MutualRetinaNet"),
    ],
    ids=["cascade", "keypoint", "retinanet"],
)
def test_models_that_detectron2_alone_takes(make_model, files, tmp_path, overrides, kind):
    model = make_model(*overrides, points=(HALF,))
    agreement = export_point(model, HALF, "detectron2", tmp_path / "export", files)
    assert agreement.detections > 20
    assert not slimmable_layers(build_model(load_config(str(tmp_path / "export/config.yaml"))))
    for name in ("torchscript", "onnx"):
        with pytest.raises(ExportError, match=f"The model is {kind}; .* take Faster R-CNN and"):
            export_point(model, HALF, name, tmp_path / name, files)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["MutualPanopticFPN", "MutualSemanticSegmentor"])
def test_models_that_segment_pixels_are_refused(name, kind):
    config = {"MutualPanopticFPN": "panoptic", "MutualSemanticSegmentor": "semantic"}[kind]
    cfg = load_config(
        f"configs/mutual_{config}_fpn_mbv2.yaml",
        ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", "0", "MODEL.FPN.OUT_CHANNELS", "32"],
    )
    with pytest.raises(ExportError, match=f"The model is a {kind}; .*R-CNN"):
        FORMATS[name].check(cfg, build_model(cfg))
