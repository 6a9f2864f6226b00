"""Reads a pickle of arrays, bytes, strings, numbers, lists and dicts; it runs no code of the file.

`pickle` calls whatever function a file names. Here a file can name a few functions of NumPy, and a class below takes
the place of each and checks its arguments: neither NumPy's functions nor any others are called.
"""

import io
import pickle
import pickletools
from math import prod
from typing import Any

import numpy as np

_MOST_VALUES = 2_000_000  # one byte in a file can make a dict of 64; CIFAR-100 has some 200,000 values


class UnsafePickleError(Exception):
    """Not a whole pickle of plain values; the message says what it is instead."""


class _DType:
    """Stands for `numpy.dtype`: one of the plain numbers, in a byte order."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        name = code.decode("latin1") if isinstance(code, bytes) else code
        if name[:1] not in "biuf" or not name[1:].isdigit():
            raise UnsafePickleError(f"an array of type {name!r}, which is not a number")
        self.name = name
        self.order = "|"

    def __setstate__(self, state: tuple) -> None:
        order = state[1]
        self.order = order.decode("latin1") if isinstance(order, bytes) else order
        if any(part is not None for part in state[2:5]):
            raise UnsafePickleError("an array of records, which are not numbers")


class _Array(np.ndarray):
    """Stands for `numpy.ndarray` and `_reconstruct`: empty until it gets exactly the bytes that its shape needs."""

    def __new__(cls, *_: object) -> "_Array":
        return super().__new__(cls, (0,), np.uint8)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _DType) or not isinstance(content, bytes):
            raise UnsafePickleError("an array without a type or without bytes")
        number = np.dtype(dtype.order + dtype.name)
        if any(type(side) is not int or side < 0 for side in shape) or prod(shape) * number.itemsize != len(content):
            raise UnsafePickleError(f"an array said to be {shape}, with {len(content)} bytes")
        super().__setstate__((1, shape, number, bool(fortran), content))  # type: ignore[arg-type]


class _Bytes:
    """Stands for `_codecs.encode` and `bytes`, as which Python 3 writes bytes in protocol 2."""

    def __new__(cls, text: str = "", encoding: str = "latin1") -> bytes:  # type: ignore[misc]
        if type(text) is not str or encoding not in ("latin1", b"latin1"):
            raise UnsafePickleError(f"bytes in the encoding {encoding!r}")
        return text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        raise UnsafePickleError("bytes with a state")


_ADMITTED = {
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.ndarray": _Array,
    "numpy.dtype": _DType,
    "_codecs.encode": _Bytes,
    "__builtin__.bytes": _Bytes,
}


# The reader in Python: the one in C allocates as much memory as a number in the file asks for.
class _Reader(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> type:
        try:
            return _ADMITTED[f"{module}.{name}"]
        except KeyError:
            raise UnsafePickleError(f"the name {module}.{name}, which has no place in a file of arrays") from None


def loads(content: bytes) -> Any:
    """The value in `content`, of any pickle protocol; strings of Python 2 become bytes.

    Takes no more memory than the size of `content` and some 200 MB.

    Raises:
        UnsafePickleError: `content` names anything but arrays and bytes, is damaged, or does not end.
    """
    try:
        if any(number == _MOST_VALUES for number, _ in enumerate(pickletools.genops(content))):
            raise UnsafePickleError(f"more than {_MOST_VALUES} values")
        return _Reader(io.BytesIO(content), encoding="bytes").load()
    except UnsafePickleError:
        raise
    except Exception as error:  # a damaged stream can raise anything
        raise UnsafePickleError(f"a damaged pickle ({type(error).__name__}: {error})") from error
