"""What decays, what is trained, what is clipped."""

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from mutualnet_det.engine.optimizer import build_optimizer, parameter_groups


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


@pytest.mark.parametrize("enabled", [True, False])
def test_gradient_clipping(tiny_cfg, enabled):
    tiny_cfg.SOLVER.CLIP_GRADIENTS.ENABLED = enabled
    tiny_cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"
    tiny_cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 2.0
    tiny_cfg.merge_from_list(["SOLVER.MOMENTUM", 0.0, "SOLVER.WEIGHT_DECAY", 0.0])
    model = nn.Linear(3, 1, bias=False)
    optimizer = build_optimizer(tiny_cfg, model)
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([[30.0, 40.0, 0.0]])
    optimizer.step()
    step = (before - model.weight.detach()) / tiny_cfg.SOLVER.BASE_LR
    assert step.norm().item() == pytest.approx(2.0 if enabled else 50.0, rel=1e-3)
    assert step[0, 0] / step[0, 1] == pytest.approx(0.75, rel=1e-3)
