"""Reads a pickle of arrays, bytes, strings, numbers, lists and dicts; it runs no code of the file.

`pickle` calls whatever function a file names. Here a file can name a few functions of NumPy, and a class below takes
the place of each and checks its arguments: neither NumPy's functions nor any others are called.

A container in a file may hold itself, or one other a million times, also inside of another: a few bytes whose hash or
text would take for ever. So a dict's keys are plain, a shape is, and only a dict on top holds containers. A long value
can be named a million times as well: what is read at each use (a type, a key, a number, a call's arguments) is short.
"""

import io
import pickle
import pickletools
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import numpy as np

_MOST_VALUES = 2_000_000  # one byte in a file can make a dict of 64; CIFAR-100 has some 200,000 values
_MOST_SIDES = 32  # of an array
_LONGEST_TYPE = 8  # such as float64's f8
_LONGEST_KEY = 256  # of a dict, in letters or bytes
_MOST_ARGUMENTS = 3  # of the calls below
_ORDERS = ("<", ">", "=", "|", b"<", b">", b"=", b"|")
_REFUSED = {
    *("NEWOBJ", "NEWOBJ_EX", "OBJ", "INST", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"),
    *("EMPTY_SET", "FROZENSET", "ADDITEMS", "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER"),
}
"""Opcodes that arrays, bytes, strings, numbers, lists and dicts do without."""


class UnsafePickleError(Exception):
    """Not a whole pickle of plain values; the message says what it is instead."""


class _DType:
    """Stands for `numpy.dtype`: one of the plain numbers, in a byte order."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        if type(code) not in (str, bytes):
            raise UnsafePickleError(f"an array whose type is a {type(code).__name__}")
        if len(code) > _LONGEST_TYPE:
            raise UnsafePickleError(f"an array whose type has {len(code)} letters, which is not a number")
        name = code.decode("latin1") if isinstance(code, bytes) else code
        if name[:1] not in "biuf" or not name[1:].isdigit():
            raise UnsafePickleError(f"an array of type {name!r}, which is not a number")
        self.name = name
        self.order = "|"

    def __setstate__(self, state: tuple) -> None:
        order = state[1]
        if order not in _ORDERS:
            raise UnsafePickleError("an array in a byte order that is not one of < > = |")
        self.order = order.decode("latin1") if isinstance(order, bytes) else order
        if any(part is not None for part in state[2:5]):
            raise UnsafePickleError("an array of records, which are not numbers")


class _Array(np.ndarray):
    """Stands for `numpy.ndarray` and `_reconstruct`: empty until it gets exactly the bytes that its shape needs."""

    def __new__(cls, *_: object) -> "_Array":
        return super().__new__(cls, (0,), np.uint8)

    def __setstate__(self, state: tuple) -> None:
        if type(state) is not tuple:
            raise UnsafePickleError(f"an array whose state is a {type(state).__name__}")
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _DType) or not isinstance(content, bytes):
            raise UnsafePickleError("an array without a type or without bytes")
        number = np.dtype(dtype.order + dtype.name)
        if type(shape) is not tuple or len(shape) > _MOST_SIDES or any(type(side) is not int for side in shape):
            raise UnsafePickleError(f"an array whose shape is not {_MOST_SIDES} numbers at most")
        if not all(0 <= side < 1 << 63 for side in shape) or prod(shape) * number.itemsize != len(content):
            raise UnsafePickleError(f"an array said to be {shape}, with {len(content)} bytes")
        super().__setstate__((1, shape, number, bool(fortran), content))  # type: ignore[arg-type]


class _Bytes:
    """Stands for `_codecs.encode` and `bytes`, as which Python 3 writes bytes in protocol 2."""

    def __new__(cls, text: str = "", encoding: str = "latin1") -> bytes:  # type: ignore[misc]
        if type(text) is not str or type(encoding) not in (str, bytes) or encoding not in ("latin1", b"latin1"):
            raise UnsafePickleError("bytes in an encoding that is not latin1")
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
_Unpickler: Any = pickle._Unpickler


class _Reader(_Unpickler):
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self.left = 2 * len(content)

    def find_class(self, module: str, name: str) -> type:
        try:
            return _ADMITTED[f"{module}.{name}"]
        except KeyError:
            raise UnsafePickleError(f"the name {module}.{name}, which has no place in a file of arrays") from None

    def _copied(self, content: object) -> None:
        """Count the bytes that are copied: a whole file has each of them once as text, bytes or an array's bytes."""
        self.left -= len(content) if isinstance(content, str | bytes) else 0
        if self.left < 0:
            raise UnsafePickleError("more copies of bytes than a file of arrays has")

    def _reduce(self) -> None:
        arguments = self.stack[-1]
        if type(arguments) is not tuple or len(arguments) > _MOST_ARGUMENTS:
            raise UnsafePickleError(f"a call with more than {_MOST_ARGUMENTS} arguments")
        if self.stack[-2] is _Bytes and arguments:
            self._copied(arguments[0])
        super().load_reduce()

    def _build(self) -> None:
        state = self.stack[-1]
        if isinstance(self.stack[-2], _Array) and type(state) is tuple:
            self._copied(state[-1])
        super().load_build()

    def _dict(self) -> None:
        _check_keys({}, self.stack[::2])
        super().load_dict()

    def _set_item(self) -> None:
        _check_keys(self.stack[-3], [self.stack[-2]])
        super().load_setitem()

    def _set_items(self) -> None:
        _check_keys(self.metastack[-1][-1], self.stack[::2])
        super().load_setitems()

    dispatch = _Unpickler.dispatch | {
        opcode[0]: load
        for opcode, load in {
            pickle.REDUCE: _reduce,
            pickle.BUILD: _build,
            pickle.DICT: _dict,
            pickle.SETITEM: _set_item,
            pickle.SETITEMS: _set_items,
        }.items()
    }


def _check_keys(target: object, keys: Sequence[object]) -> None:
    if type(target) is not dict or any(type(key) not in (str, bytes, int) for key in keys):
        raise UnsafePickleError("a dict whose keys are neither text nor bytes nor numbers")
    if any(isinstance(key, str | bytes) and len(key) > _LONGEST_KEY for key in keys):
        raise UnsafePickleError(f"a dict with a key longer than {_LONGEST_KEY}")


def _check_nesting(value: object) -> None:
    inner = {id(item): item for item in _items(value) if isinstance(item, dict | list | tuple)}
    if (inner and type(value) is not dict) or any(
        isinstance(item, dict | list | tuple) for container in inner.values() for item in _items(container)
    ):
        raise UnsafePickleError("containers nested deeper than lists in a dict")


def _items(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def loads(content: bytes) -> Any:
    """The value in `content`, of any pickle protocol; strings of Python 2 become bytes.

    Takes no more memory than three times the size of `content` and some 200 MB, and time in proportion to the size.

    Raises:
        UnsafePickleError: `content` names anything but arrays and bytes, nests containers deeper than lists in a dict,
            is damaged, or does not end.
    """
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if number == _MOST_VALUES:
                raise UnsafePickleError(f"more than {_MOST_VALUES} values")
            if opcode.name in _REFUSED:
                raise UnsafePickleError(f"the opcode {opcode.name}, which has no place in a file of arrays")
            # A dict, the memo too, is as slow as its keys are long, and as slow as a list where all have one hash.
            if isinstance(argument, int) and not -1 << 63 <= argument < 1 << 63:
                raise UnsafePickleError("a number of more than 64 bits")
        value = _Reader(content).load()
        _check_nesting(value)
        return value
    except UnsafePickleError:
        raise
    except Exception as error:  # a damaged stream can raise anything
        raise UnsafePickleError(f"a damaged pickle ({type(error).__name__}: {error})") from error
