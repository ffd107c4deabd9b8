"""What decays, what is trained, what is clipped."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

from mutualnet_det.engine.optimizer import build_optimizer, clip, parameter_groups


@pytest.fixture(params=["backbone", "neck", "heads"])
def model_and_cfg(request, tiny_cfg):
    tiny_cfg.MUTUALNET.SCOPE = request.param
    tiny_cfg.SOLVER.WEIGHT_DECAY = 1e-4
    return build_model(tiny_cfg), tiny_cfg


def decays(groups):
    return {p: group["weight_decay"] for group in groups for p in group["params"]}


def test_everything_trainable_exactly_once(model_and_cfg):
    model, cfg = model_and_cfg
    params = [p for group in parameter_groups(cfg, model) for p in group["params"]]
    assert len(params) == len(set(params)) == len(list(model.parameters()))


def test_weight_decay_of_each_layer(model_and_cfg):
    model, cfg = model_and_cfg
    decay = decays(parameter_groups(cfg, model))
    kinds = {"norm": 0, "depthwise": 0, "ordinary": 0, "bias": 0}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.BatchNorm2d):
                kind = "norm"
            elif name == "bias":
                kind = "bias"
            elif isinstance(module, nn.Conv2d) and module.weight.shape[1] == 1:
                kind = "depthwise"
            else:
                kind = "ordinary"
            kinds[kind] += 1
            assert decay[parameter] == (1e-4 if kind == "ordinary" else 0), (module, name)
    # MobileNetV2: 17 blocks with a depthwise convolution; 52 norms before its tail.
    assert kinds["depthwise"] == 17 and kinds["norm"] >= 2 * 51
    assert kinds["ordinary"] > 40 and kinds["bias"] > 5


def test_a_single_channel_is_not_depthwise(tiny_cfg):
    model = nn.Conv2d(1, 4, 3)
    tiny_cfg.SOLVER.WEIGHT_DECAY = 1e-4
    assert decays(parameter_groups(tiny_cfg, model))[model.weight] == 1e-4


def test_configured_decay_of_norms_and_biases(tiny_cfg):
    tiny_cfg.SOLVER.WEIGHT_DECAY_NORM = 0.25
    tiny_cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.5
    tiny_cfg.SOLVER.BIAS_LR_FACTOR = 2.0
    model = build_model(tiny_cfg)
    groups = parameter_groups(tiny_cfg, model)
    decay = decays(groups)
    conv = model.proposal_generator.rpn_head.conv
    norm = model.backbone.bottom_up.features[0][1]
    assert decay[norm.weight] == 0.25 and decay[conv.bias] == 0.5
    rates = {p: group["lr"] for group in groups for p in group["params"]}
    assert rates[conv.bias] == 2 * rates[conv.weight] == 2 * tiny_cfg.SOLVER.BASE_LR


def test_frozen_stages_are_left_out(tiny_cfg):
    tiny_cfg.MODEL.BACKBONE.FREEZE_AT = 2
    model = build_model(tiny_cfg)
    params = decays(parameter_groups(tiny_cfg, model))
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert len(frozen) > 20 and not any(p in params for p in frozen)
    assert len(params) + len(frozen) == len(list(model.parameters()))


def test_sgd_takes_the_solvers_keys(tiny_cfg):
    tiny_cfg.merge_from_list(["SOLVER.MOMENTUM", 0.5, "SOLVER.NESTEROV", True])
    optimizer = build_optimizer(tiny_cfg, nn.Linear(2, 2))
    assert isinstance(optimizer, torch.optim.SGD)
    group = optimizer.param_groups[0]
    assert group["momentum"] == 0.5 and group["nesterov"] and group["lr"] == 0.01


def test_adamw_takes_the_solvers_keys(tiny_cfg):
    tiny_cfg.SOLVER.WEIGHT_DECAY = 0.3
    tiny_cfg.merge_from_list(["SOLVER.MOMENTUM", 0.5, "SOLVER.OPTIMIZER", "ADAMW"])
    optimizer = build_optimizer(tiny_cfg, nn.Linear(2, 2))
    assert isinstance(optimizer, torch.optim.AdamW)
    weights, biases = optimizer.param_groups
    assert (weights["betas"], weights["lr"], weights["weight_decay"]) == ((0.5, 0.999), 0.01, 0.3)
    assert biases["weight_decay"] == 0


def gradients_of(parameters):
    return [parameter.grad for parameter in parameters]


@pytest.fixture
def parameters():
    """Parameters with gradients short and long, with a large value, of norm 0, and without one."""
    torch.manual_seed(0)
    tensors = [
        nn.Parameter(torch.zeros(shape)) for shape in ((3,), (4, 2), (2, 1, 3, 3), (5,), (6,))
    ]
    for parameter, scale in zip(tensors[:-1], (0.1, 10.0, 3.0, 0.0), strict=True):
        parameter.grad = scale * torch.randn(parameter.shape)
    return tensors


@pytest.mark.parametrize(
    ("kind", "norm_type"), [("norm", 2.0), ("norm", 1.0), ("norm", float("inf")), ("value", 2.0)]
)
def test_clips_as_detectron2_does(tiny_cfg, parameters, kind, norm_type):
    node = tiny_cfg.SOLVER.CLIP_GRADIENTS
    node.ENABLED, node.CLIP_TYPE, node.CLIP_VALUE, node.NORM_TYPE = True, kind, 2.0, norm_type
    if kind == "value":  # Detectron2's fails on a parameter without a gradient
        parameters = parameters[:-1]
    theirs = copy.deepcopy(parameters)
    for mine, other in zip(parameters, theirs, strict=True):
        other.grad = None if mine.grad is None else mine.grad.clone()
    total = torch.cat([p.grad.flatten() for p in theirs if p.grad is not None]).norm()
    detectron2_sgd = maybe_add_gradient_clipping(tiny_cfg, torch.optim.SGD)
    detectron2_sgd(theirs, lr=1.0).step()

    assert clip(tiny_cfg, parameters).item() == pytest.approx(total.item(), rel=1e-6)
    for mine, other in zip(gradients_of(parameters), gradients_of(theirs), strict=True):
        assert (mine is None and other is None) or torch.equal(mine, other)
    assert parameters[1].grad.abs().max() <= 2.0


def test_without_clipping_gradients_are_measured_and_stay(tiny_cfg, parameters):
    tiny_cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    before = [None if g is None else g.clone() for g in gradients_of(parameters)]
    total = clip(tiny_cfg, parameters)
    assert total == pytest.approx(sum(float(g.square().sum()) for g in before[:-1]) ** 0.5)
    for mine, other in zip(gradients_of(parameters), before, strict=True):
        assert (mine is None and other is None) or torch.equal(mine, other)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_shows_in_the_norm(tiny_cfg, parameters, bad):
    parameters[2].grad[1, 0, 2, 2] = bad
    assert not torch.isfinite(clip(tiny_cfg, parameters))
