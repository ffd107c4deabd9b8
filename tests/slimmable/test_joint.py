"""Normalising by the statistics of two processes' inputs together, against one that has both."""

import multiprocessing
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from mutualnet_det.slimmable import Channels, SlimmableBatchNorm2d

WORLD_SIZE = 2
CHANNELS = 16
# Width, shapes (N, H, W) of both inputs, their mean, how activations are recomputed, and the type.
CASES = {
    "full": (1.0, ((2, 5, 7), (3, 4, 4)), 0.5, None),
    "narrow": (0.5, ((2, 5, 7), (1, 3, 4)), 0.5, None),
    "empty": (1.0, ((2, 5, 7), (0, 5, 7)), 0.5, None),
    "all_empty": (1.0, ((0, 5, 7), (0, 5, 7)), 0.5, None),
    "one_value": (1.0, ((1, 1, 1), (4, 6, 6)), 0.5, None),
    "far": (1.0, ((2, 5, 7), (3, 4, 4)), 3000.0, None),
    "bfloat16": (1.0, ((2, 5, 7), (3, 4, 4)), 3.0, None, torch.bfloat16),
    "recomputed": (1.0, ((2, 5, 7), (3, 4, 4)), 0.5, "not reentrant"),
    "recomputed_reentrant": (1.0, ((2, 5, 7), (3, 4, 4)), 0.5, "reentrant"),
}
TOLERANCES = {
    "far": {"rtol": 1e-3, "atol": 2e-3},  # a value of 3000 itself is known to 1e-4
    "bfloat16": {"rtol": 2e-2, "atol": 5e-2},  # outputs and gradients are rounded to 8 bits
}


def make_case(width, shapes, mean, recomputes, dtype=torch.float32):
    count = Channels(CHANNELS).at(width)
    norm = SlimmableBatchNorm2d(Channels(CHANNELS))
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    return {
        "width": width,
        "recomputes": recomputes,
        "state": norm.state_dict(),
        "inputs": [
            (torch.randn(n, count, h, w) * (1 + rank) + rank + mean)
            .to(dtype)
            # As networks keep it, and the other way.
            .contiguous(memory_format=(torch.channels_last, torch.contiguous_format)[rank])
            for rank, (n, h, w) in enumerate(shapes)
        ],
        "weights": [torch.randn(n, count, h, w) for n, h, w in shapes],
    }


@pytest.fixture(scope="module")
def joint(exit_codes, tmp_path_factory):
    """By name: the case, and the result of each process."""
    torch.manual_seed(0)
    cases = {name: make_case(*args) for name, args in CASES.items()}
    folder = tmp_path_factory.mktemp("joint")
    context = multiprocessing.get_context("spawn")
    script = str(Path(__file__).with_name("joint_script.py"))
    job = {"world_size": WORLD_SIZE, "folder": str(folder), "cases": list(cases.values())}
    processes = [
        context.Process(
            target=runpy.run_path,
            args=(script,),
            kwargs={"init_globals": {"JOB": job | {"rank": rank}}},
        )
        for rank in range(WORLD_SIZE)
    ]
    for process in processes:
        process.start()
    assert exit_codes(processes) == [0, 0]
    ranks = [torch.load(folder / f"rank{r}.pth", weights_only=True) for r in range(WORLD_SIZE)]
    return {name: (cases[name], *each) for name, *each in zip(cases, *ranks, strict=True)}


def values(tensors):
    """(V, C) of tensors (N, C, H, W)."""
    return torch.cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in tensors])


def reference(case):
    """PyTorch's own norm in float64, on the values of all inputs as so many images of one pixel."""
    x = values(case["inputs"]).double().requires_grad_()
    norm = nn.BatchNorm1d(x.shape[1]).double()
    state = {k: v[: x.shape[1]] if v.dim() else v for k, v in case["state"].items()}
    norm.load_state_dict(state)
    y = norm(x)
    (y * values(case["weights"])).sum().backward()
    return x, y, norm


@pytest.mark.parametrize("name", [name for name in CASES if name != "all_empty"])
def test_is_the_norm_of_all_inputs(joint, name):
    case, *ranks = joint[name]
    x, y, norm = reference(case)
    close = TOLERANCES.get(name, {"rtol": 1e-5, "atol": 1e-5})
    torch.testing.assert_close(values(r["output"] for r in ranks).double(), y, **close)
    gradient = values(r["input_gradient"] for r in ranks).double()
    torch.testing.assert_close(gradient, x.grad, **close)
    count = x.shape[1]
    for parameter in ("weight", "bias"):
        total = sum(r[f"{parameter}_gradient"] for r in ranks)
        expected = getattr(norm, parameter).grad
        torch.testing.assert_close(total[:count].double(), expected, **close)
        assert not total[count:].any()


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("all_empty", "narrow")])
def test_running_statistics_are_of_all_inputs_and_updated_once(joint, name):
    case, *ranks = joint[name]
    _, _, norm = reference(case)
    for rank in ranks:
        for key in ("running_mean", "running_var"):
            expected = getattr(norm, key).float()
            torch.testing.assert_close(rank["state"][key], expected, rtol=1e-4, atol=1e-5)
        assert rank["state"]["num_batches_tracked"] == 1
    assert torch.equal(ranks[0]["state"]["running_var"], ranks[1]["state"]["running_var"])


def test_nothing_to_learn_from(joint):
    case, *ranks = joint["all_empty"]
    for rank in ranks:
        assert rank["output"].shape == (0, CHANNELS, 5, 7)
        assert not rank["weight_gradient"].any()
        for key in ("running_mean", "running_var"):
            assert torch.equal(rank["state"][key], case["state"][key])


def test_a_sub_network_leaves_running_statistics_alone(joint):
    case, *ranks = joint["narrow"]
    for rank in ranks:
        assert all(torch.equal(rank["state"][key], case["state"][key]) for key in case["state"])
