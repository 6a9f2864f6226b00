import builtins
import os
import pickle
import struct
import subprocess
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest

from rsd.sources.safe_pickle import UnsafePickleError, loads


class Calls:
    """Pickles to a call, as an attack does."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(5, dtype=">i4"),
        np.zeros((0, 3), bool),
    ],
    ids=["uint8", "fortran", "big-endian", "empty"],
)
def test_arrays_come_back_as_pickle_wrote_them(protocol, array):
    content = pickle.dumps({"data": array, b"more": [1, 2.5, "x", None]}, protocol=protocol)
    value, usual = loads(content), pickle.loads(content)
    assert np.array_equal(value["data"], array)
    assert (value["data"].dtype, value["data"].shape) == (usual["data"].dtype, array.shape)
    assert value[b"more"] == [1, 2.5, "x", None]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "system"),
        (builtins.eval, "eval"),
        (subprocess.Popen, "Popen"),
        (np.load, "load"),
        (getattr, "getattr"),
    ],
)
def test_a_call_is_refused_and_never_made(tmp_path, protocol, function, name):
    mark = tmp_path / "was-here"
    attack = pickle.dumps({"data": [[{"deep": Calls(function, f"touch {mark}")}]]}, protocol=protocol)
    with pytest.raises(UnsafePickleError, match=rf"the name .*{name}"):
        loads(attack)
    assert not mark.exists()


def test_an_object_array_is_refused():
    with pytest.raises(UnsafePickleError, match="'O8', which is not a number"):
        loads(pickle.dumps(np.array([{}, []], object), protocol=2))


def test_an_array_of_records_is_refused():
    with pytest.raises(UnsafePickleError, match="not a number"):
        loads(pickle.dumps(np.zeros(2, [("a", "u1"), ("b", "f4")]), protocol=2))


ARRAY = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n"
HUGE = struct.pack("<q", 1 << 40)
U1 = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


@pytest.mark.parametrize(
    "content",
    [
        ARRAY + b"(cnumpy\nndarray\n(\x8a\x06" + HUGE[:6] + b"tU\x01btR.",  # an empty array of 2^40 to start from
        ARRAY + b"(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(\x8a\x06" + HUGE[:6] + b"t" + U1 + b"\x89U\x01xtb.",
        b"\x80\x02B\xff\xff\xff\xff.",  # 4 GB of bytes to come
        b"\x80\x04\x8e" + HUGE + b".",  # and 1 TB
        b"\x80\x02K\x01r\xff\xff\xff\x7f.",  # a memo of 2^31 places
    ],
    ids=["start", "shape", "bytes", "more bytes", "memo"],
)
def test_a_small_file_never_takes_much_memory(content):
    tracemalloc.start()
    try:
        with suppress(UnsafePickleError):
            assert np.size(loads(content)) < 2
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


PAIRS = b"\x80\x02" + b"K\x01q\x00" + b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(60))
LISTS = b"\x80\x02" + b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (n, n, n + 1) for n in range(60))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "content",
    [
        PAIRS + b"}h\x3cK\x01s.",
        PAIRS + b"}(h\x3cK\x01u.",
        PAIRS + b"(h\x3cK\x01d.",
        PAIRS + b"\x8f(h\x3c\x90.",
        PAIRS + ARRAY + b"(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01h\x3c" + U1 + b"\x89U\x01xtb.",
        PAIRS + b"c_codecs\nencode\n(X\x01\x00\x00\x00xh\x3ctR.",
        PAIRS + b"cnumpy\ndtype\n(h\x3cK\x00K\x01tR.",
        PAIRS + b".",
        LISTS + b".",
        LISTS + b"}X\x04\x00\x00\x00datah\x3cs.",
        LISTS + ARRAY + b"(cnumpy\nndarray\n(K\x00tU\x01btR)h\x3cs.",
        b"\x80\x02]q\x00h\x00a.",
    ],
    ids=["key", "keys", "dict", "set", "shape", "encoding", "type", "tuple", "list", "value", "item", "itself"],
)
def test_nested_containers_are_refused_at_once(content):
    with pytest.raises(UnsafePickleError) as caught:
        loads(content)
    assert len(str(caught.value)) < 200


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "step", [b"c_codecs\nencode\nh\x00\x85Ra", b"c__builtin__\nbytes\nh\x00\x85Ra"], ids=["encode", "bytes"]
)
def test_copies_take_no_more_than_the_file(step):
    text = b"X" + struct.pack("<i", 1_000_000) + b"x" * 1_000_000 + b"q\x000"
    with pytest.raises(UnsafePickleError, match="more copies of bytes"):
        loads(b"\x80\x02" + text + b"]" + step * 10_000 + b".")


MANY = 50_000
LONG = struct.pack("<i", 1_000_000)
ONE_HASH = (1 << 61) - 1  # every multiple of it has the hash 0
DTYPE = b"cnumpy\ndtype\nq\x01"
EMPTY = ARRAY[2:] + b"(cnumpy\nndarray\n(K\x00tU\x01btR"
MILLION = b"X" + LONG + b"1" * 1_000_000
LIST_STATE = b"](K\x01MP\xc3\x85" + U1 + b"\x89T" + struct.pack("<i", MANY) + b"x" * MANY + b"eq\x00" + EMPTY


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "content",
    [
        DTYPE + b"X" + LONG + b"u" + b"1" * 999_999 + b"\x85q\x00" + b"0h\x01h\x00R" * MANY,
        DTYPE + b"T" + LONG + b"u" + b"1" * 999_999 + b"\x85q\x00" + b"0h\x01h\x00R" * MANY,
        DTYPE + b"(K\x03T" + LONG + b"|" * 1_000_000 + b"NNNtq\x00" + b"h\x01U\x02u1\x85R" + b"h\x00b" * MANY,
        b"}" + b"".join(MILLION + b"q%c0" % n for n in (0, 1)) + b"h\x00Ns" + b"h\x01Ns" * MANY,
        b"}\x8b" + LONG + b"\x01" * 1_000_000 + b"q\x000" + b"h\x00Ns" * MANY,
        b"}" + b"".join(b"\x8a\x0c" + (n * ONE_HASH).to_bytes(12, "little") + b"Ns" for n in range(MANY)),
        b"N" + b"".join(b"p%d\n" % (n * ONE_HASH) for n in range(MANY)),
        MILLION + b"q\x00" + b"0" + ARRAY[2:] + b"q\x01" + b"0h\x01h\x00R" * MANY,
        b"(" + b"N" * 500_000 + b"tq\x000" + ARRAY[2:] + b"q\x01" + b"0h\x01h\x00R" * MANY,
        LIST_STATE + b"h\x00b" * MANY,
    ],
    ids=["type", "bytes", "order", "key", "number", "numbers", "memo", "text", "arguments", "state"],
)
def test_using_a_long_value_often_is_refused(content):
    with pytest.raises(UnsafePickleError) as caught:
        loads(b"\x80\x02" + content + b".")
    assert "damaged" not in str(caught.value)


def test_a_file_of_very_many_values_is_refused(monkeypatch):
    monkeypatch.setattr("rsd.sources.safe_pickle._MOST_VALUES", 1000)
    with pytest.raises(UnsafePickleError, match="more than 1000 values"):
        loads(b"\x80\x02" + b"}" * 1000 + b".")


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_every_cut_of_a_file_is_refused():
    whole = pickle.dumps({b"data": np.arange(6, dtype=np.uint8).reshape(2, 3), b"labels": [0, 1]}, protocol=2)
    for length in range(len(whole)):
        with pytest.raises(UnsafePickleError):
            loads(whole[:length])


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_damage_anywhere_is_refused_or_gives_plain_values():
    whole = bytearray(pickle.dumps({b"data": np.arange(6, dtype=np.uint8).reshape(2, 3), b"n": [0, "x"]}, protocol=2))
    generator = np.random.default_rng(0)
    for _ in range(3000):
        damaged = bytearray(whole)
        damaged[generator.integers(len(whole))] = generator.integers(256)
        with suppress(UnsafePickleError):
            loads(bytes(damaged))
