"""What a model may ask for when a device tries it: not any memory, not any time, not the life of the command."""

import gc
import hashlib
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException
from rsd_edge import bundle as bundles
from rsd_edge import child, choosing, selftest
from rsd_edge.choices import Pins
from rsd_edge.errors import EdgeError
from rsd_edge.model import Model
from rsd_edge.releases import Releases

from tests.bundles import SHAPE, edit
from tests.deploy.edge.device import works


def constant(name, value):
    return numpy_helper.from_array(np.array(value), name)


def onnx_file(nodes, initializers):
    """`nodes` make `cost`, a float of shape [1], which is added to the logits."""
    nodes = [
        *nodes,
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "sides"], ["means"], keepdims=0),
        helper.make_node("Add", ["means", "cost"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *SHAPE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", SHAPE[2]])
    body = helper.make_graph(nodes, "costly", [image], [logits], [*initializers, constant("sides", [1, 2])])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(onnx.ModelProto.SerializeToString(model))


def of_any_memory():
    """A tensor of 64 GB, which depends on the input, so that it is not made when the model is opened."""
    nodes = [
        helper.make_node("Shape", ["image"], ["batch"], start=0, end=1),
        helper.make_node("Mul", ["batch", "many"], ["length"]),
        helper.make_node("ConstantOfShape", ["length"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["cost"]),
    ]
    return onnx_file(nodes, [constant("many", [1 << 34])])


def of_any_time():
    """A loop of 2^62 turns."""
    turn = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["sum", "sum"], ["more"])],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]),
        ],
    )
    nodes = [helper.make_node("Loop", ["turns", "", "zero"], ["cost"], body=turn)]
    return onnx_file(nodes, [constant("turns", 1 << 62), constant("zero", np.zeros(1, np.float32))])


COSTLY = {
    "memory": (of_any_memory, "expected the model to run within 1536 MiB of memory, found .*; use another release"),
    "time": (of_any_time, "expected tiny-2 to open and to infer within the time that a device has, found it still"),
}


@pytest.mark.parametrize("kind", COSTLY)
def test_a_costly_model_leaves_the_current_one(workshop, releases, monkeypatch, kind):
    releases.install(workshop.signed(1, precisions=("fp32",)), workshop.keys)
    releases.activate(workshop.keys)
    make, sentence = COSTLY[kind]
    bundle = workshop.unsigned(2, precisions=("fp32",))
    path = bundle / "fp32" / "model.onnx"
    path.write_bytes(make())
    facts = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    edit(bundle / "manifest.json", lambda m: m["files"].update({"fp32/model.onnx": facts}))
    releases.install(workshop.forged(bundle), workshop.keys)
    monkeypatch.setattr(bundles, "free_memory", lambda: 2 << 30)
    monkeypatch.setattr(selftest, "STEP", 1)
    started = time.monotonic()
    with pytest.raises(EdgeError, match=f"^{sentence}"):
        releases.activate(workshop.keys)
    assert time.monotonic() - started < 60
    assert releases.current().name == "tiny-1"
    assert works(releases.current())
    assert releases.status()["events"][-1]["event"] == "failed"


def test_slow_steps_have_one_deadline_together(shared, monkeypatch):
    infer = Model.infer

    def slow_infer(self, images):
        time.sleep(0.2)
        return infer(self, images)

    monkeypatch.setattr(Model, "infer", slow_infer)
    monkeypatch.setattr(selftest, "LONGEST", 0.5)
    started = time.monotonic()
    sentence = "expected signed to open and to infer within|expected the self-test of .* to end within 0.5 seconds"
    with pytest.raises(EdgeError, match=sentence):
        choosing.choose(shared.bundle(1), Pins(), lambda *_, **__: None)
    assert time.monotonic() - started < 3


def runtime_fails(reason):
    raise RuntimeException(reason)


@pytest.mark.parametrize(
    ("work", "sentence"),
    [
        (lambda: os.abort(), "found that the runtime ended with status -6"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "MiB of memory, found that the system ended it"),
        (lambda: bytearray(1 << 40), "MiB of memory, found MemoryError: no reason"),
        (lambda: 1 / 0, "no fault of rsd-edge itself, found ZeroDivisionError: division by zero"),
        (lambda: dict[str, int]()["logits"], "no fault of rsd-edge itself, found KeyError: 'logits'"),
        (lambda: Path("/none/x").read_bytes(), "to read the release, found FileNotFoundError: .*/none/x"),
        (lambda: runtime_fails("Failed to allocate memory for requested buffer"), "MiB of memory, found RuntimeExc"),
        (lambda: runtime_fails("/onnxruntime_src/x.cc std::bad_alloc"), "MiB of memory, found RuntimeException"),
        (lambda: runtime_fails("CUDA failure 2: out of memory"), "MiB of memory, found RuntimeException"),
        (
            lambda: runtime_fails("invalid index"),
            "ONNX Runtime to run the model, found RuntimeException: invalid index",
        ),
    ],
)
def test_a_crash_in_the_child_is_a_sentence(work, sentence):
    with pytest.raises(EdgeError, match=f"^expected .*{sentence}"):
        child.run(work, "tiny-1", seconds=60)


def test_a_child_returns_its_result_without_holding_locks(tmp_path, releases):
    with releases._locked():
        assert child.run(lambda: {"p99": 1.5}, "tiny-1", seconds=60) == {"p99": 1.5}
        assert child.run(lambda: len(os.listdir("/proc/self/fd")), "tiny-1", seconds=60) == 6  # stdio, pipes, folder
    with Releases(releases.root)._locked():
        pass


def test_garbage_of_the_parent_stays_uncollected(shared):
    """The destructor of a session waits for its threads, which a forked child has not."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # its thread waits at once
    garbage: list[object] = [ort.InferenceSession(shared.first / "fp32" / "model.onnx", options)]
    garbage.append(garbage)  # a cycle, which only the collector finds
    del garbage
    time.sleep(0.2)

    assert child.run(gc.collect, "tiny-1", seconds=10) is not None
    assert gc.get_freeze_count() == 0


def test_a_child_stands_still_between_its_steps():
    """Its other threads, too: one of them counts as fast as it can."""

    def work():
        count = [0]

        def run():
            while True:
                count[0] += 1

        threading.Thread(target=run, daemon=True).start()
        while True:
            time.sleep(0.02)
            yield count[0]

    with child.steps(work, "tiny-1", seconds=60) as step:
        first, second = step(), step()
        time.sleep(0.5)
        third = step()
        assert first < second < third
        assert third - second < 10 * (second - first)


def test_a_step_that_crashes_is_a_sentence():
    def work():
        yield 1
        os.abort()

    with child.steps(work, "tiny-1", seconds=60) as step:
        assert step() == 1
        with pytest.raises(EdgeError, match="ended with status -6"):
            step()


def test_a_child_that_is_left_ends():
    with child.steps(lambda: (os.getpid() for _ in range(2)), "tiny-1", seconds=60) as step:
        number = step()
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
