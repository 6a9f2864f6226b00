"""The benchmark of the server asks what it says it asks."""

import json

import numpy as np
from rsd_edge import protocol

from benchmarks.edge_server import Client, requests
from tests.deploy.edge.serving import NAME, SHAPE, Tiny, always, ask, images, served


def test_every_request_is_answered_on_one_connection() -> None:
    (image,) = images(1)
    calls = requests(NAME, image)
    with served(always(Tiny())) as address:
        client = Client(int(address.split(":")[1]))
        for _ in range(3):
            for request in calls.values():
                client.ask(request)
        metrics = ask(address, "GET", "/metrics")[2].decode()
    assert 'rsd_edge_requests_total{code="200",route="infer"} 6.0\n' in metrics
    assert 'rsd_edge_requests_total{code="200",route="classify"} 3.0\n' in metrics


def test_both_encodings_hold_the_same_image() -> None:
    (image,) = images(1)
    for name, request in requests(NAME, image).items():
        head, _, body = request.partition(b"\r\n\r\n")
        lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        assert int(lines["Content-Length"]) == len(body)
        if name != "server, JPEG":
            length = lines.get("Inference-Header-Content-Length")
            result = protocol.parse(body, length, shape=SHAPE, max_batch=1)
            np.testing.assert_array_equal(result.images, image[None])
            assert result.binary is (name == "server, binary")
            assert json.loads(body[: int(length or len(body))])["inputs"][0]["shape"] == [1, *SHAPE]
