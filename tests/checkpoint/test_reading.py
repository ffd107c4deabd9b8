"""Reading checkpoint files: no code runs, and what cannot be read is named."""

import pickle
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mutualnet_det.checkpoint import CheckpointError, read_checkpoint
from mutualnet_det.errors import UserError

STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.steps": torch.tensor(7)}


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def assert_same_state(state):
    assert set(state) == set(STATE)
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("is_zip", [True, False])
def test_checkpoint_and_bare_state_dict(tmp_path, is_zip):
    path = str(tmp_path / "weights.pth")
    torch.save(STATE, path, _use_new_zipfile_serialization=is_zip)
    checkpoint = read_checkpoint(path)
    assert list(checkpoint) == ["model"]
    assert_same_state(checkpoint["model"])
    torch.save(
        {"model": STATE, "iteration": 3, "note": ["a", None, 1.5]},
        path,
        _use_new_zipfile_serialization=is_zip,
    )
    checkpoint = read_checkpoint(path)
    assert_same_state(checkpoint["model"])
    assert checkpoint["iteration"] == 3 and checkpoint["note"] == ["a", None, 1.5]


def test_weights_only_is_asked_for(tmp_path, monkeypatch):
    # Before torch 2.6 it was not the default.
    path = str(tmp_path / "weights.pth")
    torch.save(STATE, path)
    asked = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: (asked.append(k), load(*a, **k))[1])
    read_checkpoint(path)
    assert [kwargs["weights_only"] for kwargs in asked] == [True]
    assert asked[0]["map_location"] == "cpu"


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("place", ["alone", "beside the weights", "among the weights"])
def test_code_in_a_file_does_not_run(tmp_path, how, place):
    sprung = tmp_path / "sprung"
    trap = Trap(sprung)
    content = {
        "alone": trap,
        "beside the weights": {"model": STATE, "extra": trap},
        "among the weights": {"model": {**STATE, "trap": trap}},
    }[place]
    path = tmp_path / "weights.pth"
    if how == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(CheckpointError, match=str(path)) as error:
        read_checkpoint(str(path))
    assert not sprung.exists()
    if how == "zip":
        assert "could run code" in str(error.value)


def test_the_trap_works(tmp_path):
    """Else the test above would show nothing."""
    path = tmp_path / "weights.pth"
    torch.save({"trap": Trap(tmp_path / "sprung")}, path)
    torch.load(path, weights_only=False)
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kept", [0, 1, 4, 60, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("is_zip", [True, False])
def test_truncated_file_is_named(tmp_path, kept, is_zip):
    path = tmp_path / "weights.pth"
    torch.save({"model": {"weight": torch.rand(500)}}, path, _use_new_zipfile_serialization=is_zip)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises(CheckpointError, match=f"{path} .*bytes.* truncated or not a checkpoint"):
        read_checkpoint(str(path))


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\n",
        b"<!DOCTYPE html>\n<html></html>",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        bytes(range(256)) * 4,
        b"\n\n\n",
        b"(lp0\n.",
        b"\x80\x02]q\x00.",
        b"0.5 0.25\n",
        b"a",
    ],
)
def test_other_files_are_named(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=str(path)):
        read_checkpoint(str(path))


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint .*nowhere.pth"):
        read_checkpoint(str(tmp_path / "nowhere.pth"))
    with pytest.raises(CheckpointError, match=f"no checkpoint {tmp_path}"):
        read_checkpoint(str(tmp_path))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_pickle_of_arrays(tmp_path, protocol, suffix):
    path = tmp_path / f"R-50.{suffix}"
    arrays = {
        "conv.weight": np.arange(6.0).reshape(2, 3).T,
        "big": np.arange(3, dtype=">f4"),
        "steps": np.int64(7),
    }
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}, protocol=protocol))
    checkpoint = read_checkpoint(str(path))
    assert checkpoint["__author__"] == "x" and checkpoint["model"].keys() == arrays.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(checkpoint["model"][key].numpy(), array)


def test_pickle_of_python_2(tmp_path):
    """Its texts are bytes, arrays' contents among them: as written by Python 2.7, protocol 2."""
    text = b"U\x08\xcd\xcc\x8c?\x00\x00\x00@"  # of 8 bytes: the floats 1.1 and 2
    dtype = b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNN"
    dtype += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    state = b"(K\x01(K\x02t" + dtype + b"\x89" + text + b"tb"
    path = tmp_path / "R-50.pkl"
    path.write_bytes(b"\x80\x02}U\x07conv1_w" + array + state + b"s.")
    loaded = read_checkpoint(str(path))["model"]
    torch.testing.assert_close(loaded, {"conv1_w": torch.tensor([1.1, 2.0])})


def test_pickled_arrays_of_objects_are_refused(tmp_path):
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"weight": np.array([{}, None])}))
    with pytest.raises(CheckpointError, match="'weight' is a ndarray; expected a tensor"):
        read_checkpoint(str(path))


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_safetensors(tmp_path, suffix):
    path = tmp_path / f"model.{suffix}"
    save_file(STATE, path, metadata={"format": "pt"})
    assert_same_state(read_checkpoint(str(path))["model"])


def test_safetensors_without_the_package(tmp_path, monkeypatch):
    save_file(STATE, tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(CheckpointError, match="pip install safetensors"):
        read_checkpoint(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("place", ["state_dict", "model_state_dict"])
def test_state_dict_among_other_things(tmp_path, place):
    path = tmp_path / "a.pth.tar"
    torch.save({place: STATE, "epoch": 3}, path)
    checkpoint = read_checkpoint(str(path))
    assert_same_state(checkpoint["model"])
    assert checkpoint["epoch"] == 3 and place not in checkpoint


@pytest.mark.parametrize(
    "content, expected",
    [
        (torch.zeros(3), "holds a Tensor"),
        ([STATE], "holds a list"),
        ({"model": None}, "NoneType as 'model'"),
        ({"model": torch.zeros(2)}, "Tensor as 'model'"),
        ({"weights": STATE, "epoch": 3}, "'weights' is a dict"),
        ({"state_dict": 3}, "int as 'model'"),
        ({3: torch.zeros(2)}, "a key is 3; expected the name"),
        ({"model": {"weight": 1.5}}, "'weight' is a float"),
    ],
)
def test_content_that_is_no_state_dict(tmp_path, content, expected):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"{path}.*{expected}"):
        read_checkpoint(str(path))


def test_users_can_mend_it():
    assert issubclass(CheckpointError, UserError)
