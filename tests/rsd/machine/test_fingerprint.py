import json
import subprocess
import sys

import pytest

from rsd.machine import fingerprint as device


def test_two_calls_agree():
    assert device.fingerprint() == device.fingerprint()


def test_the_facts_are_json_and_name_this_machine():
    result = json.loads(json.dumps(device.fingerprint()))
    assert result["cpu"]["logical_cores"] >= 1
    assert result["memory_gib"] >= 1
    assert result["versions"]["onnxruntime"]
    assert device.short_name(result).startswith(result["cpu"]["name"])


@pytest.mark.parametrize("content", ["", "\n", "uninitialized\n", None])
def test_machines_without_an_id_have_none(monkeypatch, tmp_path, content):
    monkeypatch.setattr(device, "MACHINE_ID", tmp_path / "machine-id")
    if content is not None:
        device.MACHINE_ID.write_text(content)
    assert device.fingerprint()["machine"] is None
    device.MACHINE_ID.write_text("0123456789abcdef\n")
    assert len(device.fingerprint()["machine"] or "") == 12


def test_a_missing_nvidia_smi_means_no_gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert device.fingerprint()["gpus"] == []


@pytest.mark.parametrize(("script", "gpus"), [("exit 9", 0), ("echo 'NVIDIA RTX, 580.1, 8.9, 16376 MiB'", 1)])
def test_gpus_are_what_nvidia_smi_says(monkeypatch, tmp_path, script, gpus):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    result = device.fingerprint()
    assert len(result["gpus"]) == gpus
    if gpus:
        assert result["gpus"][0]["compute_capability"] == "8.9"
        assert device.short_name(result).endswith("NVIDIA RTX")


def test_a_missing_library_has_no_version(monkeypatch):
    monkeypatch.setattr(device, "LIBRARIES", ("no-such-library",))
    assert device.fingerprint()["versions"] == {"no-such-library": None}


def test_torch_is_not_imported():
    code = (
        "import sys, rsd.machine.fingerprint; rsd.machine.fingerprint.fingerprint(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
