"""Which pair of precision and runtime is served, and that nothing that is wrong ever is."""

import os

import pytest
from rsd_edge import bundle as bundles
from rsd_edge import choices, choosing, runtimes, selftest
from rsd_edge.choices import Pins
from rsd_edge.errors import EdgeError
from rsd_edge.model import Model
from rsd_edge.records import Pair

from tests.bundles import edit
from tests.deploy.edge.device import events
from tests.deploy.edge.pairs import ORT16, ORT32, OV16, OV32, add_openvino, chosen, logged, place


def test_the_fastest_right_pair_is_served(device, workshop, times):
    pytest.importorskip("openvino")
    times[OV16, 2] = [0.4]
    device.activate(workshop.keys)
    assert chosen(device) == (OV16, 2)
    model = choosing.open_model(device.root, device.current(), Pins(), pytest.fail)
    assert (model.pair, model.threads, model.provider) == (OV16, 2, "CPU")
    rows = device.status()["choice"]["rows"]
    assert {(row["precision"], row["runtime"]) for row in rows} == {ORT32, ORT16, OV32, OV16}
    assert {row["threads"] for row in rows} == {1, 2, 4}
    assert logged(device, "chosen")[0]["pair"] == "fp16 in OpenVINO"


def test_ties_go_to_fewer_threads_then_the_order(device, workshop, times):
    times |= {(ORT16, 2): [0.5], (ORT16, 4): [0.495], (ORT32, 2): [0.501], (OV32, 1): [0.6]}
    device.activate(workshop.keys)
    assert chosen(device) == (ORT32, 2)


def test_a_pair_that_strays_costs_no_release(workshop, releases, times):
    bundle = workshop.unsigned(1)
    add_openvino(bundle, add=1)
    releases.install(workshop.forged(bundle), workshop.keys)
    times |= {(OV32, 1): [0.1], (ORT16, 4): [0.5]}
    releases.activate(workshop.keys)
    assert chosen(releases) == (ORT16, 4)
    refusals = {event["pair"]: event["reason"] for event in logged(releases, "pair refused")}
    assert [*refusals] == ["fp32 in OpenVINO", "fp16 in OpenVINO"]
    assert "expected the fp32 logits of golden images within" in refusals["fp32 in OpenVINO"]
    assert "found 1 in OpenVINO on CPU; use another" in refusals["fp32 in OpenVINO"]


@pytest.mark.parametrize(
    ("version", "sentence"),
    [(None, r"expected OpenVINO on this device, found none; run `pip install 'rsd-edge\[openvino\]'`"),
     ("2023.3.0", "expected OpenVINO 2024.4 or newer, found 2023.3.0; install a newer one")],
)  # fmt: skip
def test_openvino_absent_or_old_loses_its_pairs_only(device, workshop, monkeypatch, version, sentence):
    real = runtimes.installed
    monkeypatch.setattr(runtimes, "installed", lambda name: version if name == "openvino" else real(name))
    device.activate(workshop.keys)
    assert chosen(device)[0] == ORT32
    assert [event["pair"] for event in logged(device, "pair refused")] == ["fp32 in OpenVINO", "fp16 in OpenVINO"]
    with pytest.raises(EdgeError, match=f"^{sentence}$"):
        device.activate(workshop.keys, pins=Pins(runtime="openvino"))
    assert chosen(device)[0] == ORT32


def test_a_runtime_of_the_future_is_no_fault(workshop, releases, times):
    bundle = workshop.unsigned(1, precisions=("fp32",))

    def change(manifest):
        manifest["models"]["fp32"]["onnx"]["quantum"] = "fp32/model.onnx"
        manifest["golden"]["logits"]["fp32"]["quantum"] = "golden/logits.fp32.onnxruntime.npy"

    edit(bundle / "manifest.json", change)
    releases.install(workshop.forged(bundle), workshop.keys)
    releases.activate(workshop.keys)
    assert chosen(releases) == (ORT32, 1)
    assert "found quantum; install a newer rsd-edge" in logged(releases, "pair refused")[0]["reason"]


def ending(monkeypatch, pair, *, threads=None):
    """Let the process that opens a pair end at once."""
    real = Model.open.__func__  # type: ignore[attr-defined]

    def opened(cls, folder, *, precision=None, runtime="onnxruntime", **options):
        if Pair(precision or "fp32", runtime) == pair and threads in (None, options.get("threads", 1)):
            os.abort()
        return real(cls, folder, precision=precision, runtime=runtime, **options)

    monkeypatch.setattr(Model, "open", classmethod(opened))


def test_a_crash_takes_its_own_pair_only(device, workshop, monkeypatch):
    ending(monkeypatch, ORT32)
    device.activate(workshop.keys)
    assert chosen(device) == (OV32, 1)
    (event,) = logged(device, "pair refused")
    assert (event["pair"], "ended with status -6" in event["reason"]) == ("fp32 in ONNX Runtime", True)


def test_a_crash_with_threads_leaves_the_single_ones(device, workshop, times, monkeypatch):
    times |= {(ORT16, 2): [0.1], (OV16, 1): [0.5]}
    ending(monkeypatch, ORT16, threads=2)
    device.activate(workshop.keys)
    assert chosen(device) == (OV16, 1)
    (event,) = logged(device, "pair refused")
    assert (event["pair"], event["threads"]) == ("fp16 in ONNX Runtime", 2)
    with pytest.raises(EdgeError, match="ended with status -6"):
        choosing.to_run(device.current(), choices.read(*place(device)), Pins(*ORT16, threads=2))


def test_a_device_of_little_memory_times_fewer_ways(device, workshop, times, monkeypatch):
    times[OV32, 4] = [0.1]
    readings = [1 << 30] * 13  # until each pair has its process for one thread
    monkeypatch.setattr(bundles, "free_memory", lambda: readings.pop() if readings else 1 << 27)
    device.activate(workshop.keys)
    assert chosen(device) == (ORT32, 1)
    rows = device.status()["choice"]["rows"]
    assert {row["threads"] for row in rows if row["p50_ms"] is None} == {2, 4}
    assert not [row for row in rows if row["refusal"]]
    assert logged(device, "not timed")[0]["reason"] == "there is no memory for them"


def test_unstable_times_fall_back_to_onnx_runtime(device, workshop, times):
    wild = [1.0, 2.0, 4.0, 8.0]
    times |= {(pair, threads): wild for pair in (ORT32, ORT16, OV32, OV16) for threads in (1, 2, 4)}
    times[OV16, 4] = [0.1, 0.2, 0.4, 0.8]
    device.activate(workshop.keys)
    assert chosen(device) == (ORT32, 1)
    assert logged(device, "chosen")[0]["reason"] == "the fall-back, because no timing on this device was stable"


def test_the_choice_holds_the_limit_of_p99(workshop, releases, times, monkeypatch):
    releases.install(workshop.signed(1, options={"p99_ms": 5.0}), workshop.keys)
    times |= {(ORT16, 4): [0.3], (ORT16, 2): [0.4], (ORT32, 4): [0.5]}
    slow = {4: 9.0, 2: 4.0}
    monkeypatch.setattr(selftest, "p99_of", lambda folder, pair, threads, deadline: slow.get(threads, 50.0))
    releases.activate(workshop.keys)
    assert chosen(releases) == (ORT16, 2)
    assert releases.status()["choice"]["p99_ms"] == 4.0
    (event,) = logged(releases, "pair refused")
    assert "expected a 99th percentile of at most 5.0 ms, found 9.000 ms" in event["reason"]
    slow[2] = 6.0
    with pytest.raises(EdgeError, match=r"at most 5.0 ms, found 9.000 ms"):
        releases.activate(workshop.keys)
    assert chosen(releases) == (ORT16, 2)


PINS = [
    (Pins(precision="fp16"), (ORT16, 4)),
    (Pins(runtime="openvino"), (OV32, 2)),
    (Pins(threads=3), (ORT32, 3)),
    (Pins("fp16", "openvino", 1), (OV16, 1)),
]


@pytest.mark.parametrize(("pins", "expected"), PINS)
def test_what_is_pinned_is_what_is_served(device, workshop, times, pins, expected):
    times |= {(ORT32, 1): [0.1], (ORT16, 4): [0.3], (OV32, 2): [0.2]}
    device.activate(workshop.keys)
    assert chosen(device) == (ORT32, 1)
    assert choosing.to_run(device.current(), choices.read(*place(device)), pins) == expected
    device.activate(workshop.keys, pins=pins)
    assert chosen(device) == expected
    device.activate(workshop.keys)
    assert chosen(device) == (ORT32, 1)


def test_an_absent_pin_is_refused_by_name(device, workshop):
    sentence = "^expected a pair out of fp32 in ONNX Runtime, .*, found int8; pin one of these, or none$"
    with pytest.raises(EdgeError, match=sentence):
        device.activate(workshop.keys, pins=Pins(precision="int8"))
    assert device.current() is None
    device.activate(workshop.keys)
    with pytest.raises(EdgeError, match=sentence):
        choosing.open_model(device.root, device.current(), Pins(precision="int8"), pytest.fail)


def test_a_pin_that_strays_is_refused(workshop, releases, times):
    bundle = workshop.unsigned(1)
    add_openvino(bundle, add=1)
    releases.install(workshop.forged(bundle), workshop.keys)
    pins = Pins("fp32", "openvino")
    with pytest.raises(EdgeError, match="^expected the fp32 logits of golden images within .* in OpenVINO"):
        releases.activate(workshop.keys, pins=pins)
    assert events(releases)[-2:] == ["pair refused", "failed"]
    releases.activate(workshop.keys)
    with pytest.raises(EdgeError, match="^expected the fp32 logits of golden images within .* in OpenVINO"):
        choosing.open_model(releases.root, releases.current(), pins, pytest.fail)
    choices.path_of(releases.root, "tiny-1").unlink()
    with pytest.raises(EdgeError, match="^expected the fp32 logits of golden images within .* in OpenVINO"):
        choosing.open_model(releases.root, releases.current(), pins, print)
