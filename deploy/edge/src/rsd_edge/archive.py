"""A bundle that travels as one file: an uncompressed tar of its folder, as Ansible and Mender carry it.

Unpacked before its signature is checked, so with nothing of what tar can do but plain files below one folder.
"""

import contextlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

from rsd_edge.bundle import MAX_BYTES, MAX_FILES, check_path
from rsd_edge.errors import EdgeError

MAX_HEADER = 1 << 16
"""Bytes of a long name or of attributes, which are read into memory."""
_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_AGAIN = "make it with `tar -C BUNDLE -cf FILE .` and copy it again"


@contextlib.contextmanager
def unpacked(source: Path, folder: Path) -> Iterator[Path]:
    """The folder of a bundle: `source` itself, or if that is a file `folder`, which is made and removed again.

    Raises:
        EdgeError: the file is no tar of plain files, or holds more than a bundle may have.
    """
    if not source.is_file():
        yield source
        return
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    try:
        _unpack(source, folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # whatever stays is removed by the next command that changes releases


class _Member(tarfile.TarInfo):
    """One whose headers are small; `tarfile` names this method as the one to override."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type == tarfile.GNUTYPE_SPARSE or (self.type in _HEADERS and self.size > MAX_HEADER):
            raise EdgeError(f"expected plain files with short names in a tar file, found another header; {_AGAIN}")
        return super()._proc_member(tar)  # type: ignore[misc]


def _unpack(source: Path, folder: Path) -> None:
    total = count = 0
    try:
        # Not compressed: what comes out is no more than what is there.
        with tarfile.open(source, "r:", tarinfo=_Member) as tar:
            for member in tar:
                name = os.path.normpath(member.name)
                total, count = total + member.size, count + 1
                if count > MAX_FILES or total > MAX_BYTES:
                    raise EdgeError(f"expected a bundle in {source.name}, found more files or bytes than it may have")
                if member.isdir() and name == ".":
                    continue
                check_path(name)
                if member.isdir():
                    (folder / name).mkdir(parents=True, exist_ok=True)
                    continue
                content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
                if content is None:
                    raise EdgeError(f"expected plain files in {source.name}, found {name!a}, which is none; {_AGAIN}")
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with (folder / name).open("xb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, FileExistsError, NotADirectoryError, ValueError, RecursionError) as error:
        raise EdgeError(f"expected a whole tar file in {source.name}, found: {error}; {_AGAIN}") from None
