"""Detectors of Detectron2 are imported whole: the full network finds the same as there."""

import pickle

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from mutualnet_det.checkpoint import MutualCheckpointer, import_backbone
from mutualnet_det.config import load_config
from mutualnet_det.modeling.build import build_network

SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 16),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 16, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [16]),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 20, "MODEL.BACKBONE.FREEZE_AT", 0),
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 16, "TEST.DETECTIONS_PER_IMAGE", 10),
    *("INPUT.FORMAT", "BGR", "MODEL.PIXEL_STD", [1.0, 1.0, 1.0]),
    *("MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675], "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
    *("MODEL.RESNETS.DEPTH", 50),
]
OURS = [
    *("MODEL.FPN.BOTTOM_UP", "build_slimmable_resnet_backbone"),
    *("MUTUALNET.ALLOW_UNTRAINED_WIDTHS", True),
]
# Detectron2's names of what the project's configs name.
THEIRS = {
    "mutual_maskrcnn_mbv2": ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"],
    "mutual_keypointrcnn_mbv2": ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"],
    "mutual_panoptic_fpn_mbv2": ["MODEL.META_ARCHITECTURE", "PanopticFPN"],
}
CLASSES = {
    "mutual_maskrcnn_mbv2": {"thing_classes": 80},
    "mutual_keypointrcnn_mbv2": {"thing_classes": 1, "keypoint_names": 17},
    "mutual_panoptic_fpn_mbv2": {"thing_classes": 80, "stuff_classes": 54},
}


def detectron2s(cfg, options):
    """Detectron2's own network of what a config of this project describes, in random weights."""
    theirs = get_cfg()
    for node in ("ANCHOR_GENERATOR", "FPN", "ROI_KEYPOINT_HEAD", "SEM_SEG_HEAD"):
        for key, value in cfg.MODEL[node].items():
            if key in theirs.MODEL[node] and key != "NAME":
                theirs.MODEL[node][key] = value
    for key in ("MASK_ON", "KEYPOINT_ON"):
        theirs.MODEL[key] = cfg.MODEL[key]
    theirs.merge_from_list(
        [
            *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
            *("MODEL.RESNETS.OUT_FEATURES", cfg.MODEL.FPN.IN_FEATURES),
            *("MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
            *("MODEL.ROI_HEADS.NUM_CLASSES", cfg.MODEL.ROI_HEADS.NUM_CLASSES),
            *("MODEL.ROI_HEADS.IN_FEATURES", cfg.MODEL.ROI_HEADS.IN_FEATURES),
            *("MODEL.RPN.IN_FEATURES", cfg.MODEL.RPN.IN_FEATURES),
            *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", 2),
            *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7, "MODEL.ROI_MASK_HEAD.NUM_CONV", 4),
            *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
            *("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 14),
            *SMALL,
            *options,
        ]
    )
    torch.manual_seed(0)
    model = build_model(theirs).eval()
    for name, parameter in model.named_parameters():
        if "keypoint_head" in name:
            parameter.data.mul_(0.1)  # heatmaps that are not all infinite
    return model


@pytest.mark.parametrize("name", THEIRS)
def test_a_whole_detector(request, name, tmp_path):
    config = request.config.rootpath / "configs" / f"{name}.yaml"
    cfg = load_config(str(config), [*map(str, SMALL + OURS)])
    theirs = detectron2s(cfg, THEIRS[name])
    state = {key: value.numpy() for key, value in theirs.state_dict().items()} | {
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4).numpy()
    }
    content = {"model": state, "__author__": "Detectron2 Model Zoo"}
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(content))
    report = import_backbone(str(tmp_path / "model_final.pkl"), str(tmp_path / "imported.pth"))
    assert [*report.unused] == ["__author__", "proposal_generator.anchor_generator.cell_anchors.0"]

    ours = build_network(cfg).eval()
    MutualCheckpointer(ours, cfg).load(str(tmp_path / "imported.pth"), checkpointables=[])
    classes = torch.load(tmp_path / "imported.pth", weights_only=True)["mutualnet"]["classes"]
    assert {key: len(names) for key, names in classes.items()} == CLASSES[name]
    image = torch.randint(0, 256, (3, 64, 96), generator=torch.Generator().manual_seed(0))
    inputs = [{"image": image.float(), "height": 64, "width": 96}]
    with torch.no_grad():
        (expected,), (found,) = theirs(inputs), ours(inputs)
    expected_objects, objects = expected["instances"], found["instances"]
    assert len(objects) == len(expected_objects) > 0
    torch.testing.assert_close(
        objects.pred_boxes.tensor, expected_objects.pred_boxes.tensor, rtol=1e-3, atol=1e-2
    )
    torch.testing.assert_close(objects.scores, expected_objects.scores, rtol=1e-3, atol=1e-4)
    assert torch.equal(objects.pred_classes, expected_objects.pred_classes)
    if "sem_seg" in expected:
        near = 1e-4 * float(expected["sem_seg"].abs().max())
        torch.testing.assert_close(found["sem_seg"], expected["sem_seg"], rtol=1e-3, atol=near)


@pytest.mark.parametrize("retinanet", [False, True])
def test_the_backbone_alone(request, tmp_path, retinanet):
    """If so asked, and of a RetinaNet, whose pyramid is another one."""
    config = request.config.rootpath / "configs" / "mutual_maskrcnn_mbv2.yaml"
    cfg = load_config(str(config), [*map(str, SMALL + OURS)])
    state = detectron2s(cfg, THEIRS["mutual_maskrcnn_mbv2"]).state_dict()
    if retinanet:
        state = {key: value for key, value in state.items() if key.startswith("backbone.")}
        state |= {"backbone.top_block.p6.weight": torch.zeros(16, 2048, 3, 3)}
        state |= {"head.cls_score.bias": torch.zeros(720)}
    torch.save({"model": state}, tmp_path / "a.pth")
    report = import_backbone(
        str(tmp_path / "a.pth"), str(tmp_path / "b.pth"), backbone_only=not retinanet
    )
    assert report.unused["backbone.fpn_output2.weight"] == "not of the network"
    content = torch.load(tmp_path / "b.pth", weights_only=True)
    assert "conv1.weight" in content["model"] and not content["mutualnet"]["classes"]
