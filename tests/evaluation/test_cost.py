"""Costs: the counted multiply-adds and parameters are those of the network that runs."""

import copy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import Conv2d
from torch import nn

from mutualnet_det import add_mutualnet_config
from mutualnet_det.evaluation import cost as cost_module
from mutualnet_det.evaluation.cost import CostCounter, count_cost, padded_sizes
from mutualnet_det.slimmable import Calibrations, OperatingPoint, at_width, sliced


class Tally:
    """Counts what layers really do, by forward hooks: an independent count to compare with."""

    def __init__(self, model):
        self.by_name = {}
        for name, module in model.named_modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                module.register_forward_hook(lambda m, x, y, name=name: self.add(name, m, x[0], y))

    def add(self, name, module, x, y):
        if isinstance(module, nn.Linear):
            count = x.shape[0] * module.in_features * module.out_features
        else:
            # A transposed convolution multiplies each input position, an ordinary each output one.
            positions = x if isinstance(module, nn.ConvTranspose2d) else y
            batch, height, width = positions.shape[0], *positions.shape[-2:]
            count = batch * height * width * module.weight.numel()
        self.by_name[name] = self.by_name.get(name, 0) + count

    def under(self, *prefixes):
        return sum(count for name, count in self.by_name.items() if name.startswith(prefixes))


def run(model, height, width):
    with torch.no_grad():
        return model.inference(
            [{"image": torch.zeros(3, height, width), "height": height, "width": width}],
            do_postprocess=False,
        )[0]


@pytest.mark.parametrize("size", [(96, 160), (128, 64), (224, 96)])
def test_counts_what_a_forward_does(make_config, make_model, size):
    cfg = make_config("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    model = make_model(cfg)
    unhooked = copy.deepcopy(model)
    tally = Tally(model)
    proposals = []
    model.roi_heads.box_head.register_forward_pre_hook(lambda m, x: proposals.append(len(x[0])))
    detections = len(run(model, *size))
    assert detections > 0
    cost = count_cost(unhooked, [size], num_proposals=proposals[0])
    parts = cost.by_part(detections)
    expected = {
        "backbone": tally.under("backbone.bottom_up"),
        "neck": tally.under("backbone.fpn"),
        "rpn": tally.under("proposal_generator"),
        "box_head": tally.under("roi_heads.box"),
        "mask_head": tally.under("roi_heads.mask"),
    }
    assert parts == pytest.approx({k: v / 1e9 for k, v in expected.items()}, rel=1e-9)
    assert cost.total(detections) == pytest.approx(tally.under("") / 1e9, rel=1e-9)


def test_is_the_mean_over_images(make_config, make_model):
    counter = CostCounter(make_model(make_config()))
    small, large = (counter.count([size], 20).total(0) for size in ((64, 64), (64, 256)))
    mixed = counter.count([(64, 64), (64, 256), (64, 64)], 20).total(0)
    assert mixed == pytest.approx((2 * small + large) / 3)
    with pytest.raises(ValueError, match="sizes is empty"):
        counter.count([], 20)


def test_box_head_scales_with_proposals_and_mask_head_with_detections(make_config, make_model):
    counter = CostCounter(make_model(make_config()))
    ten, thousand = (counter.count([(64, 64)], n) for n in (10, 1000))
    assert thousand.gflops["box_head"] == pytest.approx(100 * ten.gflops["box_head"])
    assert thousand.gflops["rpn"] == ten.gflops["rpn"]
    assert ten.total(3) - ten.total(1) == pytest.approx(2 * ten.gflops_per_detection["mask_head"])


def test_many_sizes_take_few_traces(make_config, make_model, monkeypatch):
    counter = CostCounter(make_model(make_config()))
    traced = []
    monkeypatch.setattr(cost_module, "multiply_adds", lambda *args: traced.append(args))
    counter.count([(32 * h, 32 * w) for h in range(1, 20) for w in range(1, 20)], 20)
    assert traced == []


class StridedByDivision(nn.Module):
    """Maps whose sizes no level structure explains, as a backbone could have."""

    size_divisibility = 32
    padding_constraints = {}

    def __init__(self, channels=16):
        super().__init__()
        self.conv = Conv2d(3, channels, 3, stride=7)

    def forward(self, x):
        y = self.conv(x)
        return dict.fromkeys(("p2", "p3", "p4", "p5", "p6"), y)


def test_sizes_that_do_not_follow_the_levels_are_traced(make_config, make_model):
    model = make_model(make_config())
    model.backbone = StridedByDivision()
    cost = count_cost(model, [(96, 160)], 20)
    tally = Tally(model.backbone)
    model.backbone(torch.zeros(1, 3, 96, 160))
    assert cost.gflops["backbone"] == pytest.approx(tally.under("") / 1e9)
    assert cost.gflops["neck"] == 0 and cost.parameters["neck"] == 0


def test_without_a_mask_head(make_config, make_model):
    with_masks = count_cost(make_model(make_config()), [(64, 64)], 20)
    without = count_cost(make_model(make_config("MODEL.MASK_ON", False)), [(64, 64)], 20)
    assert without.gflops == with_masks.gflops
    assert without.gflops_per_detection["mask_head"] == 0 and without.parameters["mask_head"] == 0
    assert without.total(100) == without.total(0)


@pytest.mark.parametrize("scope", ["backbone", "neck", "heads"])
@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
def test_a_slimmable_model_costs_what_its_slice_costs(
    make_slimmable_config, make_model, scope, width
):
    model = make_model(make_slimmable_config("MUTUALNET.SCOPE", scope))
    with at_width(model, width):  # not calibrated
        cost = count_cost(model, [(64, 96)], 20)
    calibrations = Calibrations(model)
    point = OperatingPoint(width, 64)
    calibrations.calibrate(point, [torch.rand(2, 3, 64, 64)], model.backbone)
    with calibrations.at(point):
        plain = sliced(model)
    tally = Tally(plain)
    detections = len(run(plain, 64, 96))
    # A network of random weights may propose fewer boxes than asked for, or detect none.
    assert sum(cost.gflops[part] for part in ("backbone", "neck", "rpn")) == pytest.approx(
        tally.under("backbone", "proposal") / 1e9
    )
    assert detections == 0 or cost.by_part(detections)["mask_head"] == pytest.approx(
        tally.under("roi_heads.mask") / 1e9
    )
    assert sum(cost.parameters.values()) == sum(p.numel() for p in plain.parameters())


def test_leaves_the_model_as_it_was(make_slimmable_config, make_model):
    model = make_model(make_slimmable_config()).train()
    model.roi_heads.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    with at_width(model, 0.5):
        inside = count_cost(model, [(64, 64)], 20)
        assert model.backbone.bottom_up.width.value == 0.5
        assert model.backbone.bottom_up.width.shared.statistics is None
    assert count_cost(model, [(64, 64)], 20).total(0) > inside.total(0)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_padded_sizes_are_those_the_model_sees(make_config, make_model):
    model = make_model(make_config())
    seen = []
    model.backbone.register_forward_pre_hook(lambda m, x: seen.append(tuple(x[0].shape[-2:])))
    sizes = padded_sizes([(100, 150), (300, 100)], 64, 160, model.backbone)
    run(model, 64, 96)  # 100 x 150 at a short side of 64
    run(model, 160, 53)  # 300 x 100: the long side is capped at 160
    assert sizes == seen == [(64, 96), (160, 64)]


def test_prints_every_part(make_config, make_model):
    text = str(count_cost(make_model(make_config()), [(64, 64)], 20))
    parts = ("backbone", "neck", "rpn", "box_head", "mask_head")
    assert all(part in text for part in parts) and "20 proposals" in text


def test_refuses_what_it_cannot_count(make_config, make_model):
    model = make_model(make_config())
    model.roi_heads = torch.nn.Identity()
    with pytest.raises(ValueError, match="StandardROIHeads, got Identity"):
        count_cost(model, [(64, 64)], 20)
    with pytest.raises(ValueError, match="A Linear is no model"):
        count_cost(torch.nn.Linear(1, 1), [(64, 64)], 20)


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ("mutual_keypointrcnn_mbv2", {"rpn": "proposal_generator", "box_head": "roi_heads.box"}),
        ("mutual_cascade_maskrcnn_mbv2", {"rpn": "proposal_generator"}),
        ("mutual_panoptic_fpn_mbv2", {"rpn": "proposal_generator", "semantic_head": "sem_seg"}),
        ("mutual_retinanet_mbv2", {"dense_head": "head"}),
        ("mutual_semantic_fpn_mbv2", {"semantic_head": "sem_seg"}),
    ],
)
def test_counts_every_kind_of_head(make_model, config, parts):
    cfg = get_cfg()
    add_mutualnet_config(cfg)
    cfg.merge_from_file(f"configs/{config}.yaml")
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "MODEL.FPN.OUT_CHANNELS", 32, "MODEL.ROI_BOX_HEAD.FC_DIM", 32),
            *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [32], "MODEL.ROI_MASK_HEAD.CONV_DIM", 32),
            *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 16, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
            *("MODEL.RPN.POST_NMS_TOPK_TEST", 20, "TEST.DETECTIONS_PER_IMAGE", 7),
        ]
    )
    model = make_model(cfg)
    tally = Tally(unhooked := copy.deepcopy(model))
    proposals = []
    heads = getattr(unhooked, "roi_heads", None)
    if heads is not None:
        first = heads.box_head[0] if isinstance(heads.box_head, nn.ModuleList) else heads.box_head
        first.register_forward_pre_hook(lambda m, x: proposals.append(len(x[0])))
    with torch.no_grad():
        (result,) = unhooked([{"image": torch.zeros(3, 96, 160), "height": 96, "width": 160}])
    detections = len(result["instances"]) if heads is not None else 0
    cost = count_cost(model, [(96, 160)], proposals[0] if proposals else 0)
    by_part = cost.by_part(detections)
    names = {"backbone": "backbone.bottom_up", "neck": ("backbone.fpn", "backbone.top"), **parts}
    for part, prefixes in names.items():
        prefixes = (prefixes,) if isinstance(prefixes, str) else prefixes
        assert by_part[part] == pytest.approx(tally.under(*prefixes) / 1e9), part
    assert cost.total(detections) == pytest.approx(tally.under("") / 1e9)
    own = sum(p.numel() for p in model.parameters())
    assert sum(cost.parameters.values()) == own
