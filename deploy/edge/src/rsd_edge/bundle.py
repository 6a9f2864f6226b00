"""What a bundle must be before a byte of it is used: signed, whole, nothing else in it, and made for this device.

Nothing is parsed before its signature or digest holds, but the signature itself.
"""

import hashlib
import json
import os
import platform
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from rsd_edge import disk, signature
from rsd_edge.errors import EdgeError

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
MAX_MANIFEST = 1 << 22
MAX_FILES = 1000
MAX_BYTES = 1 << 32
"""4 GiB, of all files of a bundle together."""
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_AGAIN = "copy the bundle again"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose signature holds and whose files are all there; their content is looked at by `take`."""

    folder: Path
    manifest: dict[str, Any]
    files: dict[str, str]
    """Relative path -> hex SHA-256, the manifest among them; the signature is not."""
    manifest_bytes: int

    @property
    def id(self) -> str:
        """Name and release, which is also its folder's name on the device."""
        return f"{self.manifest['name']}-{self.manifest['release']}"

    def size(self, name: str) -> int:
        """Bytes of one of `files`."""
        return self.manifest_bytes if name == MANIFEST else int(self.manifest["files"][name]["bytes"])

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(map(self.size, self.files))


def read(folder: Path, keys: Iterable[Path]) -> Bundle:
    """Check signature, names, kinds and sizes of a bundle's files.

    Raises:
        EdgeError: the first thing that is wrong.
    """
    keys = list(keys)
    if not 1 <= len(keys) <= 2:
        raise EdgeError(f"expected one or two pinned public keys, found {len(keys)}; change the keys folder")
    found = _walk(folder)
    if signature.NAME not in found:
        raise EdgeError(
            f"expected a signed bundle in {folder}, found no {signature.NAME}; sign it with `rsd sign bundle`"
        )
    files = signature.signed_files(disk.read(folder / signature.NAME, signature.MAX_BYTES), keys)
    for name in files:
        check_path(name)
    if missing := sorted(files.keys() - found.keys()):
        raise EdgeError(f"expected {len(files)} files, found no {missing[0]}: the bundle is only half there; {_AGAIN}")
    if extra := sorted(found.keys() - files.keys() - {signature.NAME}):
        raise EdgeError(f"expected only signed files, found {extra[0]!a} besides; {_AGAIN}")
    if MANIFEST not in files:
        raise EdgeError(f"expected {MANIFEST} among the signed files, found none; sign a bundle of rsd")
    content = disk.read(folder / MANIFEST, MAX_MANIFEST)
    bundle = Bundle(folder, _manifest(content, files), files, len(content))
    for name in files:
        if found[name] != bundle.size(name):
            raise EdgeError(f"expected {bundle.size(name)} bytes in {name}, found {found[name]}; {_AGAIN}")
    if bundle.bytes > MAX_BYTES:
        raise EdgeError(f"expected at most {MAX_BYTES} bytes in a bundle, found {bundle.bytes}; make it smaller")
    return bundle


def take(bundle: Bundle, target: Path | None = None) -> None:
    """Hold every file to its digest, and copy the very bytes that were checked to the new folder `target`.

    Raises:
        EdgeError: a file is not what was signed.
    """
    for name, expected in bundle.files.items():
        copy = target / name if target else None
        if copy:
            copy.parent.mkdir(parents=True, exist_ok=True)
        if disk.digest(bundle.folder / name, bundle.size(name), copy=copy) != expected:
            raise EdgeError(f"expected {name} as it was signed, found it changed; {_AGAIN}")
    if target:
        disk.write(target / signature.NAME, disk.read(bundle.folder / signature.NAME, signature.MAX_BYTES))
        for folder, _, _ in os.walk(target):
            disk.sync(Path(folder))


def check_installed(folder: Path, manifest_sha256: str) -> None:
    """Hold an installed release to what was installed; its signature was checked then, perhaps by a key of the past.

    Raises:
        EdgeError: it is not whole.
    """
    again = "activate another release, or install this one again"
    try:
        found = _walk(folder)
        if disk.digest(folder / MANIFEST, found[MANIFEST]) != manifest_sha256:
            raise EdgeError(f"expected release {folder.name} as it was installed, found another manifest; {again}")
        files = json.loads(disk.read(folder / MANIFEST, MAX_MANIFEST))["files"]
        if files.keys() | {MANIFEST, signature.NAME} != found.keys():
            raise EdgeError(f"expected the files of release {folder.name}, found another set; {again}")
        for name, facts in files.items():
            if disk.digest(folder / name, facts["bytes"]) != facts["sha256"]:
                raise EdgeError(f"expected {name} of release {folder.name} as installed, found it changed; {again}")
    except (OSError, LookupError) as error:
        raise EdgeError(f"expected release {folder.name} whole, found it damaged ({error}); {again}") from None


def check_device(manifest: dict[str, Any], *, free: int) -> None:
    """Hold what a bundle requires to this device.

    Args:
        free: bytes of memory that can be used.

    Raises:
        EdgeError: another architecture, an older runtime, or too little memory.
    """
    requires = manifest["requires"]
    if platform.machine() not in requires["architectures"]:
        raise EdgeError(
            f"expected a device of {', '.join(requires['architectures'])}, found {platform.machine()}; "
            "install a bundle that was made for it"
        )
    if _version(ort.__version__) < _version(requires["onnxruntime"]):
        raise EdgeError(
            f"expected ONNX Runtime {requires['onnxruntime']} or newer, found {ort.__version__}; install a newer one"
        )
    if free < requires["memory_mib"] << 20:
        raise EdgeError(
            f"expected {requires['memory_mib']} MiB of free memory, found {free >> 20}; end what else runs here"
        )


def free_memory() -> int:
    """Bytes that programs can still use, as Linux estimates it."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    raise EdgeError("expected the free memory in /proc/meminfo, found none; this package is for Linux")


def _walk(folder: Path) -> dict[str, int]:
    """Size in bytes of every file below a folder, with whatever else is there refused."""
    if folder.is_symlink() or not folder.is_dir():
        raise EdgeError(f"expected the folder of a bundle, found none at {folder}; give the folder with {MANIFEST}")
    sizes: dict[str, int] = {}
    waiting = [folder]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            name = os.path.relpath(entry.path, folder)
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                raise EdgeError(
                    f"expected plain files in a bundle, found the symbolic link {name!a}; copy files instead"
                )
            if stat.S_ISDIR(mode):
                waiting.append(Path(entry.path))
            elif stat.S_ISREG(mode):
                sizes[name] = entry.stat(follow_symlinks=False).st_size
            else:
                raise EdgeError(f"expected plain files in a bundle, found {name!a}, a pipe or a device; {_AGAIN}")
            if len(sizes) + len(waiting) > MAX_FILES:
                raise EdgeError(f"expected at most {MAX_FILES} files in a bundle, found more; {_AGAIN}")
    return sizes


def check_path(name: str) -> None:
    """EdgeError for anything but a plain relative path, at most four parts long."""
    parts = name.split("/")
    if len(parts) > 4 or not all(_PART.fullmatch(part) for part in parts):
        raise EdgeError(f"expected plain relative paths in a bundle, found {name!a}; do not trust who signed it")


def _manifest(content: bytes, files: dict[str, str]) -> dict[str, Any]:
    """The manifest, which must say the same of the files as the signature."""
    if digest_of(content) != files[MANIFEST]:
        raise EdgeError(f"expected {MANIFEST} as it was signed, found it changed; {_AGAIN}")
    try:
        manifest: dict[str, Any] = json.loads(content)
        version = manifest["schema_version"]
        if version != SCHEMA_VERSION:
            raise EdgeError(
                f"expected a bundle of schema {SCHEMA_VERSION}, found {version}; install a fitting rsd-edge"
            )
        listed = {name: facts["sha256"] for name, facts in manifest["files"].items()}
        whole = all(type(facts["bytes"]) is int and facts["bytes"] >= 0 for facts in manifest["files"].values())
        requires, release, models = manifest["requires"], manifest["release"], manifest["models"]
        known = {"labels.json", "preprocessing.json", *(model["onnx"] for model in models.values())} <= listed.keys()
        _version(requires["onnxruntime"])
        fits = type(requires["architectures"]) is list and type(requires["memory_mib"]) is int
        named = _NAME.fullmatch(manifest["name"]) and type(release) is int and 0 < release < 1 << 53
        if not (whole and known and fits and named and models and "golden" in manifest):
            raise ValueError
    except (ValueError, LookupError, TypeError, AttributeError):
        raise EdgeError(f"expected a {MANIFEST} as rsd writes it, found another; make the bundle again") from None
    if listed != {name: value for name, value in files.items() if name != MANIFEST}:
        raise EdgeError(f"expected the signed files in {MANIFEST}, found others; make and sign the bundle again")
    return manifest


def _version(text: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(\.\d+)*", text)
    if not numbers:
        raise ValueError(f"expected a version, found {text!a}")
    return tuple(map(int, numbers[0].split(".")))


def digest_of(content: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(content).hexdigest()
