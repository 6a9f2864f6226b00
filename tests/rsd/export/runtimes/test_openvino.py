import subprocess
import sys

import numpy as np
import pytest

from rsd.export import runtimes
from rsd.export.runtimes.onnxruntime import logits_of
from rsd.export.runtimes.openvino import OpenVinoSession

pytest.importorskip("openvino")


@pytest.mark.parametrize("name", ["resnet", "vit"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_it_says_what_onnx_runtime_says(exported, images, name, precision):
    path = exported(name, precision).path
    expected = logits_of(path, images)
    with runtimes.get("openvino").open(path) as session:
        assert session.shape == images.shape[1:]
        difference = np.abs(session.logits(images) - expected).max()
        assert difference <= (1e-4 if precision == "fp32" else 0.05) * np.ptp(expected)


def test_any_number_of_images_is_answered(exported, images):
    """Also a last batch that is not full; each answer is that of the image alone."""
    session = OpenVinoSession(exported("vit", "int8").path)
    alone = np.concatenate([session.logits(images[number : number + 1]) for number in range(5)])
    np.testing.assert_allclose(session.logits(images[:5], batch=3), alone, atol=1e-5)
    (timed,) = session.call(images[:5])().values()
    np.testing.assert_allclose(timed, alone, atol=1e-5)


LISTENER = """
import sys
from pathlib import Path
import numpy as np
calls = []
sys.addaudithook(lambda event, _: calls.append(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
from rsd.export import runtimes
for name in ("onnxruntime", "openvino"):
    with runtimes.get(name).open(Path(sys.argv[1])) as session:
        session.logits(np.zeros((1, *session.shape), np.uint8))
import threading
[one.join() for one in threading.enumerate() if one is not threading.main_thread()]
sys.exit(", ".join(calls) or 0)
"""


def test_no_runtime_opens_a_socket(exported):
    command = [sys.executable, "-c", LISTENER, exported("vit", "fp32").path]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")


SIGNALS = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGUSR1, lambda *_: None)
from rsd.export.runtimes.openvino import OpenVinoSession
for _ in range(3):  # as a server changes its model: the next one is open before the last one ends
    first = OpenVinoSession(Path(sys.argv[1]))
    first._compiled(1)
    second = OpenVinoSession(Path(sys.argv[1]))
    second._compiled(1)
    del first
    del second
    blocks = [bytearray(1 << 20) for _ in range(64)]
    del blocks
    signal.raise_signal(signal.SIGUSR1)
"""


def test_signals_arrive_after_sessions_have_ended(exported):
    """OpenVINO changes the stack that signals are delivered on."""
    command = [sys.executable, "-X", "faulthandler", "-c", SIGNALS, exported("vit", "fp32").path]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
