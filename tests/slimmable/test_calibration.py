"""Calibration: statistics of operating points, tied to the weights they were made with."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mutualnet_det.slimmable import (
    Calibrations,
    OperatingPoint,
    SingleValueError,
    SlimmableBatchNorm2d,
    StaleCalibrationError,
    UncalibratedError,
    at_width,
    to_group_norm,
    width_of,
)

SLIM, FULL = OperatingPoint(0.4, 8), OperatingPoint(1.0, 8)


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(5)
    # Of unequal size: each counts once, whatever its number of images.
    return [torch.randn(count, 3, 8, 8, generator=generator) * 2 + 1 for count in (4, 4, 2)]


@pytest.fixture
def calibrations(network, batches):
    network.eval()
    calibrations = Calibrations(network)
    for point in (SLIM, FULL):
        calibrations.calibrate(point, batches)
    return calibrations


def norms_of(network):
    return [m for m in network.modules() if isinstance(m, SlimmableBatchNorm2d)]


def statistics_by_hand(network, width, batches):
    """
    What the public slimmable code computes: every norm of a plain network of that width reset, in
    training mode, with momentum 1/(t+1) in the pass over batch t.
    """
    with at_width(network, width):
        plain = []
        for module in network:
            if isinstance(module, SlimmableBatchNorm2d):
                norm = nn.BatchNorm2d(module.dim.at(width))
                norm.weight.data.copy_(module.weight[: norm.num_features])
                norm.bias.data.copy_(module.bias[: norm.num_features])
                plain.append(norm)
            else:
                plain.append(module.plain() if hasattr(module, "plain") else module)
    plain = nn.Sequential(*plain).train()
    norms = [m for m in plain if isinstance(m, nn.BatchNorm2d)]
    for batch_number, batch in enumerate(batches):
        for norm in norms:
            norm.momentum = 1 / (batch_number + 1)
        plain(batch)
    return [(norm.running_mean, norm.running_var) for norm in norms]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("width", [0.25, 0.4, 1.0])
def test_is_the_cumulative_average(network, batches, width, training):
    network.train(training)
    calibrations = Calibrations(network)
    point = OperatingPoint(width, 8)
    calibrations.calibrate(point, batches)
    expected = statistics_by_hand(network, width, batches)
    with calibrations.at(point):
        actual = [width_of(network).shared.statistics[norm] for norm in norms_of(network)]
    for (mean, variance), (expected_mean, expected_variance) in zip(actual, expected, strict=True):
        torch.testing.assert_close(mean, expected_mean)
        torch.testing.assert_close(variance, expected_variance)


def test_variance_is_unbiased(network):
    image = torch.randn(2, 3, 8, 8)
    calibrations = Calibrations(network.eval())
    calibrations.calibrate(SLIM, [image])
    norm = norms_of(network)[0]
    with at_width(network, SLIM.width):
        x = network[0](image)
    with calibrations.at(SLIM):
        mean, variance = width_of(network).shared.statistics[norm]
    torch.testing.assert_close(mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(variance, x.var((0, 2, 3), correction=1))


def test_one_value_per_channel_is_refused(network):
    """It has no variance: a batch of one image, where the layer's map is 1 x 1."""
    calibrations = Calibrations(network.eval())
    lone, pair = torch.randn(1, 3, 1, 1), torch.randn(2, 3, 1, 1)
    with pytest.raises(SingleValueError, match=r"^1 sees an input \(1, \d+, 1, 1\)"):
        calibrations.calibrate(SLIM, [pair, lone])
    assert SLIM not in calibrations
    calibrations.calibrate(SLIM, [pair])
    with calibrations.at(SLIM):
        assert all(v.isfinite().all() for _, v in width_of(network).shared.statistics.values())


def test_leaves_the_running_statistics_alone(network, batches):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()
    Calibrations(network).calibrate(FULL, batches)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_at_normalises_by_its_point(network, calibrations, images):
    outputs = {}
    for point in (SLIM, FULL):
        with calibrations.at(point):
            assert width_of(network).value == point.width
            outputs[point] = network(images)
            norm = norms_of(network)[0]
            mean, variance = width_of(network).shared.statistics[norm]
            count = norm.dim.at(point.width)
            x = network[0](images)
            expected = F.batch_norm(x, mean, variance, norm.weight[:count], norm.bias[:count])
            torch.testing.assert_close(network[1](x), expected)
    assert width_of(network).value == 1.0
    assert width_of(network).shared.statistics is None
    # Outside, the full network has its running statistics again, not those of FULL.
    assert not torch.allclose(network(images), outputs[FULL])


def test_at_nests_and_restores(network, calibrations):
    shared = width_of(network).shared
    with calibrations.at(SLIM):
        slim = shared.statistics
        with calibrations.at(FULL):
            assert shared.statistics is not slim
        assert shared.statistics is slim
        with at_width(network, SLIM.width):
            assert shared.statistics is None
        assert shared.statistics is slim
    assert shared.statistics is None


@pytest.mark.parametrize("point", [OperatingPoint(0.4, 16), OperatingPoint(0.5, 8)])
def test_an_uncalibrated_point_is_named(calibrations, point):
    assert point not in calibrations
    with pytest.raises(UncalibratedError, match=f"{point} is not calibrated.*0.40x8, 1.00x8"):
        with calibrations.at(point):
            pass


def test_a_point_outside_the_range_is_refused(network, batches):
    with pytest.raises(ValueError, match="outside the range"):
        Calibrations(network).calibrate(OperatingPoint(0.1, 8), batches)


def test_knows_its_points(calibrations):
    assert (len(calibrations), list(calibrations)) == (2, [SLIM, FULL])
    assert OperatingPoint.parse("0.4x8") in calibrations


def test_no_data_is_an_error(network):
    with pytest.raises(RuntimeError, match=r"0.40x8: 2 of 2 normalisation layers saw no data, 1 "):
        Calibrations(network).calibrate(SLIM, [])
    assert width_of(network).shared.recorder is None


def test_an_error_while_calibrating_leaves_nothing_behind(network, batches):
    calibrations = Calibrations(network)

    def fail(batch):
        network(batch)
        raise KeyError("broken")

    with pytest.raises(KeyError):
        calibrations.calibrate(SLIM, batches, fail)
    shared = width_of(network).shared
    assert (shared.recorder, shared.value) == (None, 1.0)
    assert SLIM not in calibrations


def test_without_statistics_every_point_within_the_widths_runs(network, calibrations, images):
    state = calibrations.state_dict()
    assert calibrations.has_statistics
    to_group_norm(network)
    calibrations = Calibrations(network)
    assert not calibrations.has_statistics and list(calibrations) == []
    with torch.no_grad(), calibrations.at(SLIM):
        outputs = network(images)
    with torch.no_grad(), at_width(network, SLIM.width):
        torch.testing.assert_close(outputs, network(images))
    assert OperatingPoint(0.25, 9) in calibrations and OperatingPoint(1.0, 9) in calibrations
    for point in (OperatingPoint(0.24, 8), OperatingPoint(1.01, 8)):
        assert point not in calibrations
        with pytest.raises(ValueError, match=f"width={point.width} is outside the range"):
            with calibrations.at(point):
                pass

    calibrations.calibrate(SLIM, [])
    assert calibrations.state_dict()["points"] == {"0.40x8": {}}
    again = Calibrations(network)
    again.load_state_dict(calibrations.state_dict())
    assert list(again) == [SLIM]
    with pytest.raises(ValueError, match="calibration of 0.40x8 is of another architecture: 1 "):
        again.load_state_dict(state)
    with torch.no_grad():
        network[0].weight += 1
    with calibrations.at(SLIM):  # nothing that other weights could make wrong
        pass


def test_ordinary_batch_normalisation_is_refused(network):
    network.append(nn.BatchNorm1d(5))
    with pytest.raises(ValueError, match="10 is a BatchNorm1d"):
        Calibrations(network)


def step(network, **options):
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(network.parameters(), lr=0.1, **options).step()


def load_other(network):
    # Twice: the second may well get the memory that the first has freed.
    for _ in range(2):
        state = {k: torch.rand_like(t.float()).to(t) for k, t in network.state_dict().items()}
        network.load_state_dict(state, assign=True)


CHANGES = {
    "step": lambda network: step(network, foreach=False),
    "foreach step": lambda network: step(network, foreach=True),
    "fused step": lambda network: step(network, fused=True),
    "load": load_other,
    "rounded": lambda network: network.half().float(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_is_stale_once_the_weights_have_changed(network, calibrations, batches, change):
    change(network)
    with pytest.raises(StaleCalibrationError, match="changed since 2 operating points"):
        with calibrations.at(SLIM):
            pass
    with pytest.raises(StaleCalibrationError):
        calibrations.calibrate(SLIM, batches)
    with calibrations.at(SLIM, stale=True):
        assert width_of(network).value == SLIM.width
    calibrations.clear()
    assert len(calibrations) == 0
    calibrations.calibrate(SLIM, batches)
    with calibrations.at(SLIM):
        pass


def test_moving_the_model_is_no_change(network, calibrations, images):
    with calibrations.at(SLIM):
        expected = network(images)
    network.to("cpu").float()
    for parameter in network.parameters():  # other memory, same values
        parameter.data = parameter.data.clone()
    with calibrations.at(SLIM):
        torch.testing.assert_close(network(images), expected, rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_statistics_follow_the_model_to_the_gpu(network, calibrations, images):
    with calibrations.at(SLIM):
        expected = network(images)
    network.cuda()
    with calibrations.at(SLIM):
        torch.testing.assert_close(network(images.cuda()).cpu(), expected, rtol=1e-4, atol=1e-4)


def test_fingerprint_tells_weights_apart(make_network):
    one, other = Calibrations(make_network()), Calibrations(make_network())
    assert one.fingerprint() == other.fingerprint()
    assert len(one.fingerprint()) == 64
    with torch.no_grad():
        other.model[0].weight[0, 0, 0, 0] += 1e-3
    assert one.fingerprint() != other.fingerprint()


def test_fingerprint_ignores_memory_layout(network):
    calibrations = Calibrations(network)
    before = calibrations.fingerprint()
    network.to(memory_format=torch.channels_last)
    assert calibrations.fingerprint() == before


def test_state_dict_goes_through_a_file(make_network, calibrations, images, tmp_path):
    torch.save(calibrations.state_dict(), tmp_path / "calibrations.pth")
    state = torch.load(tmp_path / "calibrations.pth", weights_only=True)
    assert list(state["points"]) == ["0.40x8", "1.00x8"]

    restored = Calibrations(make_network().eval())
    restored.load_state_dict(state)
    assert list(restored) == [SLIM, FULL]
    with calibrations.at(SLIM), restored.at(SLIM):
        torch.testing.assert_close(
            restored.model(images), calibrations.model(images), rtol=0, atol=0
        )


def test_refuses_a_calibration_of_other_weights(make_network, calibrations):
    other = make_network()
    step(other)
    fresh = Calibrations(other)
    with pytest.raises(StaleCalibrationError, match="made with other weights"):
        fresh.load_state_dict(calibrations.state_dict())
    assert len(fresh) == 0
    fresh.load_state_dict(calibrations.state_dict(), stale=True)
    with fresh.at(SLIM, stale=True):
        assert width_of(other).value == SLIM.width
    with pytest.raises(StaleCalibrationError), fresh.at(SLIM):
        pass


def test_refuses_a_calibration_of_another_architecture(calibrations):
    state = calibrations.state_dict()
    state["points"]["1.00x8"]["9.norm"] = state["points"]["1.00x8"].pop("5")
    with pytest.raises(ValueError, match="of 1.00x8 is of another architecture: 5 stands in"):
        calibrations.load_state_dict(state)
    calibrations.clear()
    with pytest.raises(ValueError):
        calibrations.load_state_dict(state, stale=True)
    assert len(calibrations) == 0  # the first point alone is no calibration either


def test_an_empty_calibration_is_saved_and_loaded(network):
    calibrations = Calibrations(network)
    calibrations.load_state_dict(calibrations.state_dict())
    assert len(calibrations) == 0


def test_copy_to_running_gives_the_full_network_its_statistics(network, calibrations, images):
    with calibrations.at(FULL):
        expected = network(images)
    calibrations.copy_to_running(FULL)
    torch.testing.assert_close(network(images), expected)
