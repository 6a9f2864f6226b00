"""OpenVINO as a runtime of the device: the same logits, from many threads, and not a word to anybody."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rsd_edge
from rsd_edge.errors import EdgeError
from rsd_edge.openvino_session import OpenVinoError, OpenVinoSession

from tests.bundles import SHAPE, graph

pytest.importorskip("openvino")


@pytest.fixture
def path(tmp_path):
    (tmp_path / "fp32").mkdir()
    path = tmp_path / "fp32" / "model.onnx"
    path.write_bytes(graph(SHAPE))
    return path


def pixels(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), np.uint8)


def linear(images):
    """What the graph computes, in float64."""
    width = int(np.prod(SHAPE))
    weight = np.random.default_rng(0).normal(0, 1 / width, (width, 3)).astype(np.float32)
    return images.reshape(len(images), -1).astype(np.float64) @ weight


def test_batches_of_any_size_agree_with_float64(path):
    session = OpenVinoSession(path, 1, SHAPE)
    for count in (1, 5, 1, 2):
        logits = session.logits(pixels(count, count))
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, linear(pixels(count, count)), atol=1e-4)


def test_a_batch_is_what_its_images_are_alone(path):
    """Exactly: OpenVINO computes int8 convolutions wrongly where the batch size is left open."""
    session = OpenVinoSession(path, 1, SHAPE)
    alone = [session.logits(image[None])[0] for image in pixels(3)]
    np.testing.assert_array_equal(session.logits(pixels(3)), alone)


def test_a_removed_file_can_still_take_batches(path):
    session = OpenVinoSession(path, 1, SHAPE)
    path.unlink()
    np.testing.assert_allclose(session.logits(pixels(3)), linear(pixels(3)), atol=1e-4)


def test_many_threads_get_their_own_logits(path):
    session = OpenVinoSession(path, 2, SHAPE)

    def right(seed):
        images = pixels(1 + seed % 3, seed)
        logits = session.logits(images)
        session.logits(pixels(len(images), seed + 1))  # must not overwrite the array before
        return np.allclose(logits, linear(images), atol=1e-4)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(right, range(400)))


def test_read_only_and_strided_pixels_are_taken(path):
    session = OpenVinoSession(path, 1, SHAPE)
    frozen = np.frombuffer(pixels(1).tobytes(), np.uint8).reshape(1, *SHAPE)
    strided = pixels(4)[::2]
    for images in (frozen, strided, np.asfortranarray(pixels(2))):
        np.testing.assert_allclose(session.logits(images), linear(images), atol=1e-4)


def test_a_file_that_it_cannot_read_is_refused(path):
    path.write_bytes(b"no model")
    with pytest.raises(
        EdgeError, match=r"^expected OpenVINO 20.* to load fp32/model.onnx, found: Unable to read.*; inst"
    ):
        OpenVinoSession(path, 1, SHAPE)


def test_a_failed_inference_names_its_reason(path):
    session = OpenVinoSession(path, 1, SHAPE)
    with pytest.raises(OpenVinoError, match="."):
        session.logits(np.zeros((1, 7, 7, 3), np.uint8))


def test_without_openvino_the_sentence_says_how(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        EdgeError, match=r"expected OpenVINO on this device, .* run `pip install 'rsd-edge\[openvino\]'`"
    ):
        OpenVinoSession(path, 1, SHAPE)


def test_it_opens_no_socket_and_leaves_no_file(path, tmp_path):
    """Its import alone tells Intel, unless it is kept from it; the name of the machine is in a file of the home."""
    program = f"""
import os, sys
def watch(event, arguments):
    if event.startswith("socket."):
        os._exit(9)
sys.addaudithook(watch)
sys.path.insert(0, {str(Path(rsd_edge.__file__).parents[1])!r})
import numpy as np
from pathlib import Path
from rsd_edge.openvino_session import OpenVinoSession
OpenVinoSession(Path({str(path)!r}), 1, {SHAPE}).logits(np.zeros((1, *{SHAPE}), np.uint8))
assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]
"""
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run([sys.executable, "-c", program], env={"HOME": str(home)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [*home.iterdir()] == []


def test_a_forked_child_can_infer_after_its_parent(path):
    """The self-test runs in one; OpenVINO would hand it a thread that the parent alone has."""
    expected = OpenVinoSession(path, 1, SHAPE).logits(pixels(1))
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        same = np.array_equal(OpenVinoSession(path, 1, SHAPE).logits(pixels(1)), expected)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
