"""Which pair of precision and runtime is served, and that nothing that is wrong ever is."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from rsd_edge import bundle as bundles
from rsd_edge import choices, choosing, runtimes, selftest, timing
from rsd_edge.choices import Pins, Row
from rsd_edge.errors import EdgeError
from rsd_edge.fingerprint import fingerprint
from rsd_edge.model import Model
from rsd_edge.records import Pair, seal

from tests.bundles import edit
from tests.deploy.edge.device import contents, events
from tests.deploy.edge.serving import ask, process, until

ORT32, ORT16 = Pair("fp32", "onnxruntime"), Pair("fp16", "onnxruntime")
OV32, OV16 = Pair("fp32", "openvino"), Pair("fp16", "openvino")


def add_openvino(bundle, add=0.0):
    """Let OpenVINO read the same files, with golden logits that are `add` beside ONNX Runtime's."""

    def change(manifest):
        manifest["requires"]["openvino"] = "2024.4"
        for precision, model in manifest["models"].items():
            model["onnx"]["openvino"] = model["onnx"]["onnxruntime"]
            path = bundle / "golden" / f"logits.{precision}.openvino.npy"
            np.save(path, np.load(bundle / f"golden/logits.{precision}.onnxruntime.npy") + np.float32(add))
            manifest["golden"]["logits"][precision]["openvino"] = f"golden/{path.name}"
            facts = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            manifest["files"][f"golden/{path.name}"] = facts

    edit(bundle / "manifest.json", change)


@pytest.fixture
def times(monkeypatch):
    """Milliseconds of each way, in place of what this machine measures; 1 for those that are not in it."""
    given: dict[tuple[Pair, int], list[float]] = {}
    monkeypatch.setattr(
        timing, "in_turns", lambda ways, **_: {way: [ms / 1e3 for ms in given.get(way, [1.0])] for way in ways}
    )
    monkeypatch.setattr(timing, "physical_cores", lambda: 4)
    return given


@pytest.fixture
def device(workshop, releases, times):
    """With one release of two precisions, which ONNX Runtime and OpenVINO read."""
    bundle = workshop.unsigned(1)
    add_openvino(bundle)
    releases.install(workshop.forged(bundle), workshop.keys)
    return releases


def chosen(releases):
    choice = releases.status()["choice"]
    return Pair(choice["precision"], choice["runtime"]), choice["threads"]


def logged(releases, name):
    return [event for event in releases.events.all() if event["event"] == name]


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


def place(releases):
    current = releases.current().name
    return releases.root, current, releases.status()["manifest_sha256"]


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


def test_a_failed_trial_keeps_the_way_of_before(device, workshop, times):
    device.activate(workshop.keys)
    before = chosen(device)
    with pytest.raises(EdgeError, match="found it never was"):
        device.activate(workshop.keys, window=0.01, healthy=lambda release: False, pins=Pins(precision="fp16"))
    assert chosen(device) == before == (ORT32, 1)


def test_rollback_and_recover_keep_the_pins(workshop, releases, times, monkeypatch):
    for number in (1, 2):
        releases.install(workshop.signed(number), workshop.keys)
        releases.activate(workshop.keys, pins=Pins(precision="fp16") if number == 1 else Pins())
    releases.rollback(workshop.keys)
    assert chosen(releases) == (ORT16, 1)
    monkeypatch.setattr(choosing, "fingerprint", lambda: {"cpu": "another"})
    releases.recover(workshop.keys)
    assert chosen(releases) == (ORT16, 1)
    assert releases.status()["choice"]["fingerprint"] == {"cpu": "another"}


def test_recover_chooses_again_on_another_device(device, workshop, times, monkeypatch):
    device.activate(workshop.keys)
    times[OV32, 2] = [0.2]
    before = contents(device.root)
    device.recover(workshop.keys)
    assert contents(device.root) == before  # nothing has changed
    monkeypatch.setattr(choosing, "fingerprint", lambda: {"cpu": "another"})
    device.recover(workshop.keys)
    assert chosen(device) == (OV32, 2)
    before = contents(device.root)
    device.recover(workshop.keys)
    assert contents(device.root) == before


def test_recover_serves_on_where_nothing_is_right(device, workshop, monkeypatch, capsys):
    device.activate(workshop.keys)
    monkeypatch.setattr(choosing, "fingerprint", lambda: {"cpu": "another"})
    real = Model.infer
    monkeypatch.setattr(Model, "infer", lambda self, images: real(self, images) + 1)
    assert device.recover(workshop.keys) == "tiny-1"
    assert chosen(device) == (ORT32, 1)
    assert (
        "warning: tiny-1 runs as before, because no choice could be made: expected one pair" in capsys.readouterr().err
    )
    assert events(device)[-1] == "not chosen again"


@pytest.mark.parametrize("damage", [None, b"", b"{", b"[]", b"\0" * 500, "another digest", "a byte", "threads"])
def test_a_lost_or_damaged_choice_is_made_again(device, workshop, damage):
    device.activate(workshop.keys)
    path = choices.path_of(device.root, "tiny-1")
    whole = path.read_bytes()
    if damage is None:
        path.unlink()
    elif isinstance(damage, bytes):
        path.write_bytes(damage)
    elif damage == "another digest":
        edit(path, lambda sealed: sealed["choice"].update(manifest_sha256="0" * 64))
    elif damage == "a byte":
        path.write_bytes(whole.replace(b'"threads": 1,', b'"threads": 7,', 1))
    else:
        edit(path, lambda sealed: sealed["choice"].update(threads=1000))
    assert device.status()["choice"] is None
    sentences: list[str] = []
    model = choosing.open_model(device.root, device.current(), Pins(), sentences.append)
    assert (model.pair, model.threads) == (ORT32, 1)
    assert len(sentences) == 1
    device.recover(workshop.keys)
    assert chosen(device) == (ORT32, 1)


def test_a_lost_choice_never_serves_a_wrong_pair(workshop, releases, times):
    bundle = workshop.unsigned(1)
    path = bundle / "golden" / "logits.fp32.onnxruntime.npy"
    np.save(path, np.load(path) + np.float32(1))
    facts = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    edit(bundle / "manifest.json", lambda m: m["files"].update({f"golden/{path.name}": facts}))
    releases.install(workshop.forged(bundle), workshop.keys)
    releases.activate(workshop.keys)
    choices.path_of(releases.root, "tiny-1").unlink()
    assert choosing.open_model(releases.root, releases.current(), Pins(), print).pair == ORT16


def test_a_removed_runtime_falls_back_with_a_warning(device, workshop, times, monkeypatch):
    times[OV32, 1] = [0.1]
    device.activate(workshop.keys)
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    real = runtimes.installed
    monkeypatch.setattr(runtimes, "installed", lambda name: None if name == "openvino" else real(name))
    sentences: list[str] = []
    assert choosing.open_model(device.root, device.current(), Pins(), sentences.append).pair == ORT32
    assert "expected OpenVINO on this device" in sentences[0]
    device.recover(workshop.keys)
    assert chosen(device)[0] == ORT32


def test_a_choice_goes_with_its_release(workshop, releases, times):
    for number in (1, 2, 3):
        releases.install(workshop.signed(number, precisions=("fp32",)), workshop.keys, keep=1)
        releases.activate(workshop.keys, keep=1)
    assert [path.name for path in (releases.root / "choices").iterdir()] == ["tiny-3.json"]


def test_an_unwritable_choice_changes_nothing(device, workshop, times, monkeypatch):
    device.activate(workshop.keys)
    before = chosen(device)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(choices, "save", full)
    with pytest.raises(OSError, match="No space"):
        device.activate(workshop.keys, pins=Pins(precision="fp16"))
    monkeypatch.undo()
    assert chosen(device) == before
    assert device.status()["pending"] is None
    assert device.to_serve().name == "tiny-1"


def test_the_table_names_every_pair_and_verdict(device, workshop, times):
    times |= {(OV32, 1): [0.25], (ORT32, 2): [0.5]}
    device.activate(workshop.keys)
    choice = choices.read(*place(device))
    assert choice
    lines = [*choice.lines()]
    assert lines[0].split() == ["pair", "threads", "p50", "ms", "largest", "difference", "verdict"]
    assert lines[1].startswith("fp32 in OpenVINO            1    0.25 ")
    assert lines[1].endswith("chosen: the fastest")
    assert len(lines) == 1 + 4 * 3


def test_no_malformed_choice_is_believed(device, workshop):
    device.activate(workshop.keys)
    path = choices.path_of(device.root, "tiny-1")
    whole = json.loads(path.read_text())
    assert whole["sha256"] == seal(choices.read(*place(device)))
    for key in whole["choice"]:
        short = {name: value for name, value in whole["choice"].items() if name != key}
        path.write_text(json.dumps({"sha256": whole["sha256"], "choice": short}))
        assert choices.read(*place(device)) is None


def test_the_least_median_wins():
    rows = [Row("fp32", "onnxruntime", 1, time, 0.0, 0.0, None) for time in (3.0, None, 1.0)]
    assert choices.fastest(rows) is rows[2]
    assert choices.fastest(rows[1:2]) is rows[1]


def test_runtimes_and_cpu_name_the_device(monkeypatch):
    facts = fingerprint()
    assert {*facts} == {"machine", "cpu", "flags", "cores", "onnxruntime", "openvino"}
    assert facts["machine"] == os.uname().machine
    monkeypatch.setattr(runtimes, "installed", lambda name: None)
    assert fingerprint()["openvino"] == "none"


def test_a_copied_device_keeps_its_choice(device, workshop, tmp_path):
    device.activate(workshop.keys)
    shutil.copytree(device.root, tmp_path / "copy", symlinks=True)
    copied = type(device)(tmp_path / "copy")
    assert copied.recover(workshop.keys) == "tiny-1"
    assert len(logged(copied, "chosen")) == 1


def test_a_server_follows_the_choice_unless_pinned(device, workshop, times):
    times[ORT16, 2] = [0.2]
    device.activate(workshop.keys)

    def served(address):
        status = json.loads(ask(address, "GET", "/v1/status")[2])
        return Pair(status.get("precision"), status.get("runtime")), status.get("threads")

    with process(device.root) as (free, _), process(device.root, runtime="openvino", threads=1) as (pinned, _):
        assert (served(free), served(pinned)) == ((ORT16, 2), (OV32, 1))
        assert b'precision="fp16",provider="CPUExecutionProvider"' in ask(free, "GET", "/metrics")[2]
        device.activate(workshop.keys, pins=Pins(runtime="openvino", precision="fp16"))
        until(lambda: served(free) == (OV16, 1))
        assert served(pinned)[0].runtime == "openvino"
