"""What cannot be built from a config is an error of the config, with the reason and the place."""

import pytest

from mutualnet_det.building import explaining_config
from mutualnet_det.config import ConfigError, load_config
from mutualnet_det.errors import UserError
from mutualnet_det.modeling.build import build_network


def fail(error):
    with explaining_config("the network"):
        raise error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("Unknown pooler: foo."), "cannot be built. Unknown pooler: foo ("),
        (KeyError("No object named 'A' found!"), "built. No object named 'A' found ("),
        (KeyError("res9"), "'res9' does not fit `raise error` ("),
        (AssertionError(), "built. `raise error` ("),
    ],
)
def test_reason_and_place(error, expected):
    with pytest.raises(ConfigError) as told:
        fail(error)
    assert str(told.value).startswith("The config does not fit: the network cannot be built. ")
    assert expected in str(told.value) and "tests/test_building.py, line " in str(told.value)
    assert told.value.__cause__ is error


def test_other_errors_stay_what_they_are():
    for error in (UserError("mine"), ConfigError("mine"), RuntimeError("CUDA")):
        with pytest.raises(type(error)) as told:
            fail(error)
        assert told.value is error


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("MODEL.META_ARCHITECTURE", "Foo", "'Foo' found in 'META_ARCH' registry"),
        ("MODEL.FPN.FUSE_TYPE", "max", 'assert fuse_type in {"avg", "sum"}'),
        ("MODEL.ANCHOR_GENERATOR.SIZES", "[[8],[16]]", "Got sizes of length 2"),
    ],
)
def test_networks(key, value, expected):
    cfg = load_config("quickstart_shapes", ["MODEL.DEVICE", "cpu", key, value])
    with pytest.raises(ConfigError) as told:
        build_network(cfg)
    assert expected in str(told.value)
