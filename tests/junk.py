"""Values, changes and arrays that no honest writer makes; the same ones for the same seed."""

import io
import random
from typing import Any

import numpy as np

JUNK: list[Any] = [None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1.5, 1e308, "", "x", "UINT8", [], {}, [[]], {"a": 1}]
MORE_JUNK: list[Any] = [*JUNK, float("inf"), float("nan"), -(2**70), "../up", "/dev/zero", "golden", [None], {"a": []}]
DEEP = b"[" * 100_000


def mutate(chance: random.Random, value: Any) -> None:
    """Replace, remove or rename something anywhere in a value of JSON."""
    while True:
        key = chance.choice([*value] if isinstance(value, dict) else [*range(len(value))])
        inner = value[key]
        if not isinstance(inner, dict | list) or not inner or chance.random() < 0.2:
            kind = chance.randrange(6)
            if kind == 0:
                del value[key]
            elif kind == 1 and isinstance(value, dict):
                value[chance.choice(["x", "", "../up"])] = value.pop(key)
            else:
                value[key] = chance.choice(MORE_JUNK)
            return
        value = inner


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def promised(shape: str) -> bytes:
    """The header of an array of any size, without the array."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


ARRAYS = {
    "nothing": b"",
    "text": b"hello",
    "half a header": b"\x93NUMPY\x01\x00v",
    "no rows": saved(np.zeros((0, 6, 5, 3), np.uint8)),
    "a scalar": saved(np.array(3, np.uint8)),
    "another type": saved(np.zeros((14, 6, 5, 3), np.float64)),
    "objects": saved(np.array([{}, []], object)),
    "text in an array": saved(np.array(["a", "b"])),
    "fewer rows": saved(np.zeros((2, 6, 5, 3), np.uint8)),
    "another shape": saved(np.zeros((14, 5, 6, 3), np.uint8)),
    "2^50 rows": promised("(1125899906842624, 6, 5, 3)"),
    "2^70 rows": promised("(1180591620717411303424, 6, 5, 3)"),
    "negative rows": promised("(-1, 6, 5, 3)"),
    "rows as text": promised("('a', 6, 5, 3)"),
    "code as a shape": promised("__import__('os').getcwd()"),
}
