"""How a choice is kept, shown, followed, and made again."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from rsd_edge import choices, choosing, runtimes
from rsd_edge.choices import Pins, Row
from rsd_edge.errors import EdgeError
from rsd_edge.fingerprint import fingerprint
from rsd_edge.model import Model
from rsd_edge.records import Pair, seal

from tests.bundles import edit
from tests.deploy.edge.device import contents, events
from tests.deploy.edge.pairs import ORT16, ORT32, OV16, OV32, chosen, logged, place
from tests.deploy.edge.serving import ask, process, until


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
@pytest.mark.usefixtures("times", "short_choices")
def test_a_lost_or_damaged_choice_is_made_again(shared, releases, damage):
    releases.install(shared.first, shared.keys)
    releases.activate(shared.keys)
    path = choices.path_of(releases.root, "tiny-1")
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
    assert releases.status()["choice"] is None
    sentences: list[str] = []
    model = choosing.open_model(releases.root, releases.current(), Pins(), sentences.append)
    assert (model.pair, model.threads) == (ORT32, 1)
    assert len(sentences) == 1
    releases.recover(shared.keys)
    assert chosen(releases) == (ORT32, 1)


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
