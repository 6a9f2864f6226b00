"""The Open Inference Protocol: what is read is what was sent, and anything else is refused with a sentence."""

import json
import zlib
from typing import Any

import numpy as np
import pytest
from rsd_edge import protocol
from starlette.exceptions import HTTPException

from .serving import SHAPE, images, infer_body, read_logits


def parse(body: bytes, headers: dict[str, str]) -> protocol.InferRequest:
    length = headers.get("Inference-Header-Content-Length")
    return protocol.parse(body, length, shape=SHAPE, max_batch=4)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("count", [1, 4])
def test_images_arrive_as_they_were_sent(binary: bool, count: int) -> None:
    request = parse(*infer_body(images(count), binary=binary, id="a"))
    np.testing.assert_array_equal(request.images, images(count))
    assert request.images.dtype == np.uint8
    assert (request.id, request.binary) == ("a", binary)


def test_nested_and_flat_numbers_are_the_same() -> None:
    tensor = {"name": "image", "datatype": "UINT8", "shape": [2, *SHAPE], "data": images(2).tolist()}
    request = parse(json.dumps({"inputs": [tensor]}).encode(), {})
    np.testing.assert_array_equal(request.images, images(2))
    assert request.binary is False


@pytest.mark.parametrize("binary", [True, False])
def test_every_float32_comes_back_with_the_same_bits(binary: bool) -> None:
    bits = np.random.default_rng(1).integers(0, 2**32, 3000, dtype=np.uint32)
    extremes = np.array([0.0, -0.0, 1e-45, np.finfo(np.float32).max, 1 / 3], np.float32)
    logits = np.concatenate([values[np.isfinite(values)] for values in (bits.view(np.float32), extremes)])[None]
    request = parse(*infer_body(images(1), binary=binary))
    response = protocol.answer(logits, request, name="tiny", release=3)
    back = read_logits(dict(response.headers), bytes(response.body))
    np.testing.assert_array_equal(back.view(np.uint32), logits.view(np.uint32))


def test_the_id_may_be_a_lone_surrogate() -> None:
    request = parse(*infer_body(images(1), binary=False, id="\ud800"))
    response = protocol.answer(np.zeros((1, 3), np.float32), request, name="tiny", release=3)
    assert json.loads(bytes(response.body))["id"] == "\ud800"


def test_the_requested_output_decides_the_encoding() -> None:
    for binary in (True, False):
        outputs = [{"name": "logits", "parameters": {"binary_data": binary}}]
        assert parse(*infer_body(images(1), binary=not binary, outputs=outputs)).binary is binary


def changed(**changes: Any) -> bytes:
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, *SHAPE], "data": [0] * int(np.prod(SHAPE))}
    tensor.update(changes)
    return json.dumps({"inputs": [tensor]}).encode()


SIZE = int(np.prod(SHAPE))
SHAPES: list[Any] = [None, [], [1], [0, *SHAPE], [-1, *SHAPE], [1, *SHAPE[::-1]], [1.0, *SHAPE], [True, *SHAPE]]
SHAPES += ["1543", [1, 5, 4, "3"], {"N": 1}]
DATA: list[Any] = [None, "x", {}, 3, [], [0] * (SIZE - 1), [0] * (SIZE + 1), [[0] * SIZE], [float("nan")] * SIZE]
LAST: list[Any] = [256, -1, 10**400, 1.0, True, None, "1", [], {}, [0]]
DATA += [[*[0] * (SIZE - 1), last] for last in LAST]
DATA += [[[[[0] * 3] * 4] * 4 + [[[0] * 3] * 3]]]
WRONG: dict[str, list[bytes]] = {
    "expected JSON": [b"", b"{", b"\xff\xfe", b"[" * 60000, b'{"inputs": ' + b"9" * 5000 + b"}"],
    "expected an object as the request": [b"[]", b"3", b'"image"', b"null"],
    "expected a list with one tensor as inputs": [b"{}", b'{"inputs": []}', b'{"inputs": {}}', b'{"inputs": [1, 2]}'],
    "expected an object as a tensor of inputs": [b'{"inputs": [7]}'],
    "expected the tensor image": [changed(name="picture"), changed(name=["image"])],
    "expected the datatype UINT8": [changed(datatype="FP32"), changed(datatype=8)],
    "expected the shape [N, 5, 4, 3]": [changed(shape=shape) for shape in SHAPES],
    "expected at most 4 images": [changed(shape=[5, *SHAPE]), changed(shape=[10**30, *SHAPE])],
    "expected 60 whole numbers from 0 to 255": [changed(data=data) for data in DATA],
    "expected an object as the parameters": [changed(parameters=[]), changed(parameters=1)],
    "found both": [changed(parameters={"binary_data_size": SIZE})],
    "shared memory": [changed(parameters={"shared_memory_region": "x"})],
}


@pytest.mark.parametrize(("sentence", "body"), [(words, body) for words, bodies in WRONG.items() for body in bodies])
def test_malformed_requests_are_refused_in_one_short_sentence(sentence: str, body: bytes) -> None:
    with pytest.raises(HTTPException) as error:
        protocol.parse(body, None, shape=SHAPE, max_batch=4)
    assert error.value.status_code in (400, 413)
    assert sentence in error.value.detail or (error.value.status_code == 413 and len(body) > 65536)
    assert len(error.value.detail) < 400
    assert error.value.detail.isascii()
    assert error.value.detail.isprintable()


@pytest.mark.parametrize("size", [-1, 0, SIZE - 1, SIZE + 1, 1e3, True, "60", None, 10**40])
def test_binary_data_must_have_the_shape_s_size(size: Any) -> None:
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, *SHAPE], "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(HTTPException, match="expected 60 bytes"):
        protocol.parse(head + bytes(SIZE), str(len(head)), shape=SHAPE, max_batch=4)


def test_binary_data_must_have_its_declared_size() -> None:
    head = changed()
    with pytest.raises(HTTPException, match="expected nothing after the JSON"):
        protocol.parse(head + b"x", str(len(head)), shape=SHAPE, max_batch=4)
    body, headers = infer_body(images(1), binary=True)
    with pytest.raises(HTTPException, match="found binary_data_size 60 and 59 bytes"):
        parse(body[:-1], headers)


@pytest.mark.parametrize("length", ["-1", "+5", "1e2", "٣", "", " 4", "999999", "9" * 5000, "0x10"])
def test_a_header_length_that_is_none_is_refused(length: str) -> None:
    with pytest.raises(HTTPException, match="expected inference-header-content-length from 0 to"):
        protocol.parse(changed(), length, shape=SHAPE, max_batch=4)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({"id": 7}, "expected a string as id"),
        ({"outputs": [{"name": "scores"}]}, "expected the tensor logits as outputs"),
        ({"outputs": [{"name": "logits", "parameters": {"classification": 3}}]}, "no parameter classification"),
        ({"outputs": [{"name": "logits", "parameters": {"binary_data": 1}}]}, "expected true or false"),
        ({"outputs": "logits"}, "expected a list with one tensor as outputs"),
    ],
)
def test_outputs_that_are_not_offered_are_refused(extra: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HTTPException, match=sentence):
        parse(*infer_body(images(1), binary=False, **extra))


def test_too_much_json_is_refused_before_parsing() -> None:
    with pytest.raises(HTTPException, match="of JSON") as error:
        protocol.parse(b'{"inputs": [' + b"[]," * 100_000 + b"1]}", None, shape=SHAPE, max_batch=4)
    assert error.value.status_code == 413


def test_large_images_must_travel_as_bytes() -> None:
    shape = (384, 384, 3)
    body = b'{"inputs": [' + b"[]," * (protocol.MAX_JSON // 3) + b"1]}"
    with pytest.raises(
        HTTPException, match="expected at most 2097152 bytes of JSON, found .*; send binary data"
    ) as error:
        protocol.parse(body, None, shape=shape, max_batch=32)
    assert error.value.status_code == 413
    array = np.full((1, *shape), 199, np.uint8)
    text, _ = infer_body(array, binary=False)
    data, headers = infer_body(np.repeat(array, 32, axis=0), binary=True)
    assert protocol.parse(text.replace(b" ", b""), None, shape=shape, max_batch=32).images.shape == (1, *shape)
    length = headers["Inference-Header-Content-Length"]
    assert protocol.parse(data, length, shape=shape, max_batch=32).images.shape == (32, *shape)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_packed_bodies_are_unpacked_up_to_the_limit(encoding: str) -> None:
    packer = zlib.compressobj(wbits={"gzip": 31, "deflate": 15}[encoding])
    packed = packer.compress(b"x" * 1000) + packer.flush()
    assert protocol.unpacked(packed, encoding, 1000) == b"x" * 1000
    for body, most, sentence in (
        (packed, 999, "found more after unpacking"),
        (packed[:-1], 1000, "ends too early"),
        (b"no" + packed, 1000, "cannot be unpacked"),
    ):
        with pytest.raises(HTTPException, match=sentence):
            protocol.unpacked(body, encoding, most)
    with pytest.raises(HTTPException, match="gzip, deflate or as it is") as error:
        protocol.unpacked(packed, "br", 1000)
    assert error.value.status_code == 415
