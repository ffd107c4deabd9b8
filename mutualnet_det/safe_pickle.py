"""Reading pickles of NumPy arrays and plain containers without running code from them."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from .errors import UserError


class UnsafePickleError(UserError, ValueError):
    """A pickle that cannot be read safely; the message names the file and what stands in it."""


def _encode(text: str, encoding: str) -> bytes:
    """The function by which Python 3 writes bytes at pickle protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode(encoding)


# NumPy 1 and 2 write the same things under different module names.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{
        (f"numpy.{core}.multiarray", maker.__name__): maker
        for core in ("core", "_core")
        for maker in (np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0])
    },
    # How arrays are written at protocol 5.
    **{
        (f"numpy.{core}.numeric", "_frombuffer"): np.empty(0).__reduce_ex__(5)[0]
        for core in ("core", "_core")
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it holds {module}.{name}") from None


def load_pickle(path: str, *, encoding: str = "ASCII") -> Any:
    """
    The content of a pickle of arrays, numbers, texts, lists and dicts.

    Args:
        encoding: of texts that Python 2 wrote; "latin1" where arrays are among them.

    Raises:
        UnsafePickleError: naming the file, if it is missing, damaged or holds anything else.
    """
    try:
        with Path(path).open("rb") as file:
            return _Unpickler(file, encoding=encoding).load()
    except OSError as error:
        raise UnsafePickleError(f"Cannot read {path}: {error.strerror}.") from error
    # Bytes that are no pickle fail in the unpickler in any way there is.
    except Exception as error:
        raise UnsafePickleError(
            f"{path} is damaged, or holds more than arrays, numbers, texts, lists and dicts, and "
            f"reading that could run code ({error or type(error).__name__})."
        ) from error
