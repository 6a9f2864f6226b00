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


X86 = """processor	: 0
model name	: {name}
flags		: fpu vme sse4_2 fma avx f16c avx2 {flags} sha_ni
bugs		: spectre_v1 avx512_vnni

processor	: 1
flags		: amx_int8
"""
ARM = """processor	: 0
BogoMIPS	: 108.00
Features	: fp asimd evtstrm aes {flags}
CPU implementer	: 0x41
CPU part	: 0xd0b
"""


@pytest.mark.parametrize(
    ("text", "name", "flags"),
    [
        (X86.format(name="Haswell", flags=""), "Haswell", []),
        (X86.format(name="Ice Lake", flags="avx512f avx512_vnni"), "Ice Lake", ["avx512_vnni", "avx512f"]),
        (X86.format(name="Alder Lake", flags="avx_vnni"), "Alder Lake", ["avx_vnni"]),
        (X86.format(name="Xeon", flags="amx_tile amx_int8"), "Xeon", ["amx_int8", "amx_tile"]),
        (ARM.format(flags="crc32 cpuid"), "Raspberry Pi", ["asimd"]),
        (ARM.format(flags="asimdhp asimddp"), "Raspberry Pi", ["asimd", "asimddp", "asimdhp"]),
        (ARM.format(flags="asimddp sve i8mm bf16"), "Raspberry Pi", ["asimd", "asimddp", "bf16", "i8mm", "sve"]),
        ("", "Raspberry Pi", []),
    ],
)
def test_the_cpu_names_its_dot_products(monkeypatch, tmp_path, text, name, flags):
    monkeypatch.setattr(device, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(device, "_board", lambda: "Raspberry Pi")
    device.CPUINFO.write_text(text)
    cpu = device.fingerprint()["cpu"]
    always = ["avx2", "f16c", "fma"] if "sse4_2" in text else []
    assert (cpu["name"], cpu["flags"]) == (name, sorted(flags + always))


def test_a_mac_names_its_dot_products(monkeypatch, tmp_path):
    (tmp_path / "sysctl").write_text(f"#!/bin/sh\ncat <<'END'\n{MAC}END\n")
    (tmp_path / "sysctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    cpu = device.fingerprint()["cpu"]
    assert (cpu["name"], cpu["flags"]) == ("Apple M1", ["asimd", "asimddp", "asimdhp"])


MAC = """machdep.cpu.brand_string: Apple M1
machdep.cpu.core_count: 8
hw.optional.arm.AdvSIMD: 1
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_FP16: 1
hw.optional.arm.FEAT_BF16: 0
hw.optional.arm.FEAT_I8MM: 0
"""


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
