"""Whatever a device reads, it ends in a sentence or works: never in a traceback, never in a lost release."""

import hashlib
import json
import random
import re
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from rsd_edge import bundle as bundles
from rsd_edge import choosing
from rsd_edge.choices import Pins
from rsd_edge.errors import EdgeError
from rsd_edge.model import Model
from rsd_edge.records import MalformedError, State, load, parsed

from tests.bundles import edit
from tests.deploy.edge.device import lose_state, works
from tests.junk import ARRAYS, DEEP, mutate

pytestmark = pytest.mark.usefixtures("short_choices")


def outcome(folder: Path) -> str:
    """Whether a device takes a release whose signature is valid."""
    try:
        bundles.check_device(bundles.manifest_of(folder), free=1 << 40)
        Model.open(folder).close()
        choosing.choose(folder, Pins(), lambda *_, **__: None)
    except EdgeError as error:
        sentence = str(error)
        named = re.fullmatch("expected .{1,600}", sentence) and "fault of rsd-edge" not in sentence
        return "refused" if named else sentence
    return "works"


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    return Path(shutil.copytree(shared.bundle(1), tmp_path_factory.mktemp("malformed") / "bundle"))


def test_malformed_manifests_end_in_a_sentence(folder):
    whole = (folder / "manifest.json").read_text()
    chance = random.Random(0)
    outcomes = []
    for _ in range(300):
        manifest = json.loads(whole)
        for part in ("metrics", "latency", "origin"):  # a device does not read these
            manifest.pop(part)
        for _ in range(chance.choice([1, 1, 3])):
            mutate(chance, manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        outcomes.append(outcome(folder))
    for text in (DEEP, b"\xff", b"", b"null", b"1" * 10_000, whole[:500].encode()):
        (folder / "manifest.json").write_bytes(text)
        assert outcome(folder) == "refused"
    (folder / "manifest.json").write_text(whole)
    assert outcome(folder) == "works"
    assert {*outcomes} == {"refused", "works"}
    assert outcomes.count("refused") > 200


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda golden: golden.update(files=[]), "expected one golden file or more as files"),
        (lambda golden: golden["tolerances"].update(pixels=255), "expected 0 to 254 as tolerance of pixels, found 255"),
        (
            lambda golden: golden["tolerances"]["logits"].update(fp32=2e6),
            r"expected 0 to 1e\+06 as tolerance of logits",
        ),
        (lambda golden: golden["tolerances"]["logits"].update(fp32=-1), r"expected 0 to 1e\+06 as tolerance of logits"),
    ],
)
def test_a_manifest_that_checks_nothing_is_refused(folder, change, sentence):
    whole = (folder / "manifest.json").read_text()
    edit(folder / "manifest.json", lambda manifest: change(manifest["golden"]))
    with pytest.raises(EdgeError, match=sentence):
        bundles.manifest_of(folder)
    (folder / "manifest.json").write_text(whole)


@pytest.mark.parametrize("name", ["labels.json", "preprocessing.json"])
def test_malformed_small_files_end_in_a_sentence(folder, name):
    whole = (folder / name).read_text()
    chance = random.Random(1)
    for _ in range(60):
        value = json.loads(whole)
        mutate(chance, value)
        (folder / name).write_text(json.dumps(value))
        assert outcome(folder) in ("refused", "works")
    for text in (DEEP, b"\xff", b"", b"null", b"{}", b"[]", b"3"):
        (folder / name).write_bytes(text)
        assert outcome(folder) == "refused", text[:10]
    (folder / name).write_text(whole)


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "b", "c", "d"]])
def test_a_label_too_few_or_many_is_refused(folder, labels):
    path = folder / "labels.json"
    whole = path.read_text()
    path.write_text(json.dumps(labels))
    with pytest.raises(
        EdgeError, match=rf"expected float32 fp32 logits \[1, {len(labels)}\], .* found float32 \[1, 3\]"
    ):
        choosing.choose(folder, Pins(), lambda *_, **__: None)
    path.write_text(whole)


@pytest.mark.parametrize("shape", [(1, 0), (1,), (), (1, 3, 1)])
def test_logits_of_another_shape_are_refused(folder, monkeypatch, shape):
    monkeypatch.setattr(Model, "infer", lambda self, images: np.zeros(shape, np.float32))
    with pytest.raises(
        EdgeError, match=rf"expected float32 fp32 logits \[1, 3\], .* found .*{re.escape(str([*shape]))}"
    ):
        choosing.choose(folder, Pins(), lambda *_, **__: None)


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("name", ["images.npy", "logits.fp32.onnxruntime.npy"])
def test_malformed_golden_arrays_end_in_a_sentence(folder, kind, name):
    path = folder / "golden" / name
    whole = path.read_bytes()
    path.write_bytes(ARRAYS[kind])
    assert outcome(folder) == "refused"
    path.write_bytes(whole)


@pytest.mark.parametrize("name", ["images.npy", "logits.fp32.onnxruntime.npy", "files/wide.jpg"])
def test_malformed_signed_bundles_leave_the_device_unchanged(workshop, releases, name):
    releases.install(workshop.signed(1, precisions=("fp32",)), workshop.keys)
    releases.activate(workshop.keys)
    bundle = workshop.unsigned(2, precisions=("fp32",))
    path = bundle / "golden" / name
    path.write_bytes(ARRAYS["objects"])
    facts = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    edit(bundle / "manifest.json", lambda m: m["files"].update({f"golden/{name}": facts}))
    releases.install(workshop.forged(bundle), workshop.keys)
    with pytest.raises(EdgeError, match="^expected "):
        releases.activate(workshop.keys)
    assert releases.current().name == "tiny-1"


@pytest.fixture
def device(shared, releases):
    """A device with three good releases and a fourth that was only installed."""
    for number in (1, 2, 3):
        releases.install(shared.bundle(number), shared.keys)
        releases.activate(shared.keys)
    releases.install(shared.bundle(4), shared.keys)
    return releases


def test_one_wrong_byte_of_state_costs_no_release(shared, device):
    whole = (device.root / "state.json").read_bytes()
    before = device.status()
    chance = random.Random(3)
    noticed = 0
    for _ in range(250):
        content = bytearray(whole)
        content[chance.randrange(len(content))] = chance.randrange(256)
        lose_state(device, bytes(content))
        try:
            device.status()
        except EdgeError:
            noticed += 1
        assert device.recover(shared.keys) == "tiny-3"
        after = device.status()
        for name in ("current", "good", "installed", "highest", "pending"):
            assert after[name] == before[name], (name, bytes(content))
    assert noticed > 180
    assert all(works(device.folder / name) for name in before["installed"])


@pytest.mark.parametrize("content", [DEEP, b"\xff\xfe", b"1", b'{"sha256": 1, "state": {}}', b"\0" * 100])
def test_a_state_of_another_kind_is_rebuilt(shared, device, content):
    lose_state(device, content)
    assert device.recover(shared.keys) == "tiny-3"
    assert device.status()["good"] == ["tiny-1", "tiny-2", "tiny-3"]


def test_no_malformed_state_is_believed(device):
    sealed = json.loads((device.root / "state.json").read_text())["state"]
    chance = random.Random(4)
    for _ in range(300):
        value = json.loads(json.dumps(sealed))
        mutate(chance, value)
        try:
            state = load(State, json.dumps(value))
        except MalformedError:
            continue
        assert {*state.history, *([state.pending] if state.pending else [])} <= state.installed.keys()
        assert all(name == Path(name).name for name in state.installed)


def test_malformed_lines_of_the_log_are_skipped(device):
    count = len(device.events.all())
    chance = random.Random(5)
    with (device.root / "events.jsonl").open("ab") as file:
        for line in (b"3", b"null", b"[]", b'"x"', b"\xff\xfe", DEEP, b'{"event": 7}', b'{"time": "half', b"1" * 9999):
            file.write(line + b"\n")
        for _ in range(50):
            file.write(chance.randbytes(chance.randrange(100)).replace(b"{", b"") + b"\n")
    assert len(device.events.all()) == count
    device.events.add("good", release="tiny-3")
    assert device.status()["events"][-1]["event"] == "good"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, True),
        (int, 1.0),
        (float, "1"),
        (float, float("nan")),
        (float, 10**400),
        (str, None),
        (Literal[1, 3], True),
    ],
)
def test_a_value_of_another_type_is_refused(kind, value):
    with pytest.raises(MalformedError, match="^expected .*, found "):
        parsed(kind, value)
