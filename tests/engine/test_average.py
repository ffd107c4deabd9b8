"""The moving average of the weights."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mutualnet_det.engine.average import MovingAverage


def test_average_is_the_sum_of_decayed_weights():
    layer = nn.Linear(2, 1, bias=False)
    values = [torch.tensor([[float(i), 2.0 * i * i]]) for i in range(4)]
    with torch.no_grad():
        layer.weight.copy_(values[0])
    average = MovingAverage(layer, 0.9)
    expected = values[0]
    for value in values[1:]:
        with torch.no_grad():
            layer.weight.copy_(value)
        average.update()
        expected = 0.9 * expected + 0.1 * value
    torch.testing.assert_close(average.state_dict()["weight"], expected)


def test_in_force_inside_alone_also_after_an_error():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = MovingAverage(network, 0.5)
    with torch.no_grad():
        network[0].weight.add_(1)
    average.update()
    before = {key: value.clone() for key, value in network.state_dict().items()}

    def normalise():
        network[1].running_mean.fill_(7)

    with pytest.raises(KeyError), average.in_force(normalise):
        torch.testing.assert_close(network[0].weight, before["0.weight"] - 0.5)
        assert bool((network[1].running_mean == 7).all())
        for key, value in average.trained_weights().items():
            assert torch.equal(value, before[key])
        raise KeyError
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_state_is_taken_over():
    layer = nn.Linear(2, 2)
    average = MovingAverage(layer, 0.5)
    with torch.no_grad():
        layer.weight.add_(1)
    average.update()
    other = MovingAverage(nn.Linear(2, 2), 0.5)
    other.load_state_dict(average.state_dict())
    for name, value in average.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value)


def test_a_detector_ends_with_its_average_and_the_statistics_of_that(build):
    options = ("MUTUALNET.EMA_DECAY", 0.5, "SOLVER.MAX_ITER", 2, "SOLVER.CHECKPOINT_PERIOD", 1)
    mutual = build(*options, "MUTUALNET.METHOD", "independent")
    start = {name: value.detach().clone() for name, value in mutual.model.named_parameters()}
    mutual.train()
    steps = [
        torch.load(Path(mutual.cfg.OUTPUT_DIR) / f"{name}.pth", weights_only=True)
        for name in ("model_0000000", "model_0000001", "model_final")
    ]
    first, second, final = (saved["model"] for saved in steps)
    for name, value in start.items():
        average = 0.5 * (0.5 * value + 0.5 * first[name]) + 0.5 * second[name]
        torch.testing.assert_close(final[name], average)
    statistics = steps[-1]["calibrations"]["points"]["1.00x64"]
    for layer, (mean, variance) in statistics.items():
        assert torch.equal(final[f"{layer}.running_mean"], mean)
        assert torch.equal(final[f"{layer}.running_var"], variance)
