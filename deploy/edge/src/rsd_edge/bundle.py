"""The checks of a bundle: its signature, its files, and whether it was made for this device.

Apart from the signature itself, no file is parsed before its signature or digest was verified.
"""

import hashlib
import os
import platform
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rsd_edge import disk, runtimes, signature
from rsd_edge.errors import EdgeError
from rsd_edge.records import ONNXRUNTIME, File, MalformedError, Manifest, load, short
from rsd_edge.schema2 import upgraded

SCHEMA_VERSION = 3
MANIFEST = "manifest.json"
MAX_MANIFEST = 1 << 22
MAX_FILES = 1000
MAX_BYTES = 1 << 32
"""4 GiB, over all files of a bundle."""
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_AGAIN = "copy the bundle again"


@dataclass(frozen=True)
class _Schema:
    schema_version: int


@dataclass(frozen=True)
class Bundle:
    """A bundle whose signature is valid and whose files have the right names and sizes; `check_files` reads them."""

    folder: Path
    manifest: Manifest
    key: str
    """Digest of the pinned key that signed it."""
    files: dict[str, File]
    """By relative path, with the manifest, without the signature."""

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(file.bytes for file in self.files.values())


def read(folder: Path, keys: Sequence[Path]) -> Bundle:
    """Check the signature of a bundle, its manifest, and its files' names, kinds, sizes; EdgeError for what fails."""
    pinned = signature.pinned_keys(keys)
    sizes = _file_sizes(folder)
    if signature.NAME not in sizes:
        for inner in (name.rpartition("/")[0] for name in sorted(sizes) if Path(name).name == signature.NAME):
            raise EdgeError(f"expected a signed bundle in {folder}, found one in its folder {short(inner)}; give that")
        raise EdgeError(f"expected a signed bundle in {folder}, found no {signature.NAME}; run `rsd sign bundle`")
    key, files = signature.signed_files(disk.read(folder / signature.NAME, signature.MAX_BYTES), pinned)
    for name in files:
        check_path(name)
    if missing := sorted(files.keys() - sizes.keys()):
        raise EdgeError(f"expected {len(files)} files, found no {missing[0]}; {_AGAIN}")
    if extra := sorted(sizes.keys() - files.keys() - {signature.NAME}):
        raise EdgeError(f"expected only signed files, found {extra[0]!a} too; {_AGAIN}")
    if MANIFEST not in files:
        raise EdgeError(f"expected {MANIFEST} among the signed files, found none; sign a bundle that rsd made")
    content = disk.read(folder / MANIFEST, MAX_MANIFEST)
    if hashlib.sha256(content).hexdigest() != files[MANIFEST]:
        raise EdgeError(f"expected {MANIFEST} as it was signed, found it changed; {_AGAIN}")
    manifest = _manifest(content)
    listed = {**manifest.files, MANIFEST: File(len(content), files[MANIFEST])}
    if {name: file.sha256 for name, file in listed.items()} != files:
        raise EdgeError(f"expected the signed files in {MANIFEST}, found others; make and sign the bundle again")
    bundle = Bundle(folder, manifest, key, listed)
    for name, file in listed.items():
        if sizes[name] != file.bytes:
            raise EdgeError(f"expected {file.bytes} bytes in {name}, found {sizes[name]}; {_AGAIN}")
    if bundle.bytes > MAX_BYTES:
        raise EdgeError(f"expected at most {MAX_BYTES} bytes in a bundle, found {bundle.bytes}; make it smaller")
    return bundle


def check_files(bundle: Bundle, target: Path | None = None) -> None:
    """Check the digest of every file; with `target`, copy the bytes that were checked to this new folder.

    Raises:
        EdgeError: a file is not as it was signed.
    """
    for name, file in bundle.files.items():
        copy = target / name if target else None
        if copy:
            copy.parent.mkdir(parents=True, exist_ok=True)
        if disk.digest(bundle.folder / name, file.bytes, copy=copy) != file.sha256:
            raise EdgeError(f"expected {name} as it was signed, found it changed; {_AGAIN}")
    if target:
        disk.write(target / signature.NAME, disk.read(bundle.folder / signature.NAME, signature.MAX_BYTES))
        for folder, _, _ in os.walk(target):
            disk.sync(Path(folder))


def check_installed(folder: Path, manifest_sha256: str) -> None:
    """Check that a release is as it was installed. The signature is not checked: its key may be replaced by now.

    Raises:
        EdgeError: a file is missing, changed or too many.
    """
    again = "activate another release, or install this one again"
    try:
        sizes = _file_sizes(folder)
        if disk.digest(folder / MANIFEST, sizes[MANIFEST]) != manifest_sha256:
            raise EdgeError(f"expected release {folder.name} as it was installed, found another manifest; {again}")
        files = manifest_of(folder).files
        if files.keys() | {MANIFEST, signature.NAME} != sizes.keys():
            raise EdgeError(f"expected the files of release {folder.name}, found another set; {again}")
        for name, entry in files.items():
            if disk.digest(folder / name, entry.bytes) != entry.sha256:
                raise EdgeError(f"expected {name} of release {folder.name} as installed, found it changed; {again}")
    except (OSError, LookupError) as error:
        raise EdgeError(f"expected release {folder.name} whole, found it damaged ({error}); {again}") from None


def signer(folder: Path, manifest_sha256: str, pinned: signature.PinnedKeys) -> str:
    """Digest of the pinned key that signed an installed release; EdgeError if none did."""
    key, files = signature.signed_files(disk.read(folder / signature.NAME, signature.MAX_BYTES), pinned)
    if files.get(MANIFEST) != manifest_sha256:
        raise EdgeError(f"expected the signature of release {folder.name}, found that of another bundle; {_AGAIN}")
    return key


def check_device(manifest: Manifest, *, free: int) -> None:
    """Check that this device, with so many bytes of free memory, meets what a bundle requires.

    Raises:
        EdgeError: the architecture is another, the runtime is older, or the memory is too small.
    """
    requires = manifest.requires
    if platform.machine() not in requires.architectures:
        raise EdgeError(
            f"expected a device of {', '.join(requires.architectures)}, found {platform.machine()}; "
            "install a bundle for it"
        )
    if reason := runtimes.refusal(ONNXRUNTIME, requires):
        raise EdgeError(reason)
    if free < requires.memory_mib << 20:
        raise EdgeError(f"expected {requires.memory_mib} MiB of free memory, found {free >> 20}; end other programs")


def free_memory() -> int:
    """Bytes of memory that programs can still use, as Linux estimates it."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    raise EdgeError("expected the free memory in /proc/meminfo, found none; this package is for Linux")


def _file_sizes(folder: Path) -> dict[str, int]:
    """Size in bytes of every file below a folder; EdgeError for anything else than files and folders."""
    if folder.is_symlink() or not folder.is_dir():
        raise EdgeError(f"expected the folder of a bundle, found none at {folder}; give the one with {MANIFEST}")
    sizes: dict[str, int] = {}
    waiting = [folder]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            name = os.path.relpath(entry.path, folder)
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                raise EdgeError(f"expected plain files in a bundle, found the symbolic link {name!a}; copy files")
            if stat.S_ISDIR(mode):
                waiting.append(Path(entry.path))
            elif stat.S_ISREG(mode):
                sizes[name] = entry.stat(follow_symlinks=False).st_size
            else:
                raise EdgeError(f"expected plain files in a bundle, found the pipe or device {name!a}; {_AGAIN}")
            if len(sizes) + len(waiting) > MAX_FILES:
                raise EdgeError(f"expected at most {MAX_FILES} files in a bundle, found more; {_AGAIN}")
    return sizes


def check_path(name: str) -> None:
    """EdgeError for anything but a plain relative path of at most four parts."""
    parts = name.split("/")
    if len(parts) > 4 or not all(_PART.fullmatch(part) for part in parts):
        raise EdgeError(f"expected plain relative paths in a bundle, found {name!a}; do not trust who signed it")


def _manifest(content: bytes) -> Manifest:
    """The manifest of a bundle that was signed, or of a release."""
    try:
        schema = load(_Schema, content).schema_version
        if schema not in (2, SCHEMA_VERSION):
            raise EdgeError(f"expected a bundle of schema {SCHEMA_VERSION}, found {schema}; install its rsd-edge")
        return load(Manifest, content if schema == SCHEMA_VERSION else upgraded(content))
    except MalformedError as error:
        raise EdgeError(f"expected a {MANIFEST} as rsd writes it: {error}; make the bundle again") from None


def manifest_of(folder: Path) -> Manifest:
    """The manifest of a release whose digest was checked; EdgeError if it is not as rsd writes it."""
    return _manifest(disk.read(folder / MANIFEST, MAX_MANIFEST))


def manifest_digest(folder: Path) -> str:
    """Hex SHA-256 of the manifest of a release."""
    return hashlib.sha256(disk.read(folder / MANIFEST, MAX_MANIFEST)).hexdigest()
