"""Pickles that hold arrays are read, and nothing in them is run."""

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from mutualnet_det.safe_pickle import UnsafePickleError, load_pickle


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_come_back(tmp_path, protocol):
    path = tmp_path / "a.pkl"
    content = OrderedDict(
        a=np.arange(6, dtype=np.float32).reshape(2, 3), b=[np.float64(1.5), "text", b"\xff", None]
    )
    path.write_bytes(pickle.dumps(content, protocol))
    loaded = load_pickle(str(path))
    assert list(loaded) == ["a", "b"] and loaded["b"] == content["b"]
    assert loaded["a"].dtype == np.float32
    np.testing.assert_array_equal(loaded["a"], content["a"])


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_is_refused_by_name_and_not_run(tmp_path):
    path, made = tmp_path / "a.pkl", tmp_path / "made"
    path.write_bytes(pickle.dumps({"model": Harmful(str(made))}))
    with pytest.raises(UnsafePickleError, match=r"a\.pkl.*posix\.mkdir|a\.pkl.*nt\.mkdir"):
        load_pickle(str(path))
    assert not made.exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps(list(range(99)))[:-20]])
def test_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(UnsafePickleError, match=r"a\.pkl is damaged"):
        load_pickle(str(path))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UnsafePickleError, match=r"Cannot read .*a\.pkl: No such file"):
        load_pickle(str(tmp_path / "a.pkl"))
