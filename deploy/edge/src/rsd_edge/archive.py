"""A bundle as one file: an uncompressed tar of its folder, or of its folder's content, as Ansible and Mender carry it.

It is unpacked before its signature is checked, so only plain files below one folder are taken.
"""

import contextlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

from rsd_edge.bundle import MAX_BYTES, MAX_FILES, check_path
from rsd_edge.errors import EdgeError
from rsd_edge.signature import NAME

MAX_HEADER = 1 << 16
"""Bytes of a long name or of attributes, which tarfile reads into memory."""
_HEADERS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
_AGAIN = "make it with `tar -C BUNDLE -cf FILE .` and copy it again"


@contextlib.contextmanager
def unpacked(source: Path, folder: Path) -> Iterator[Path]:
    """The folder of a bundle: `source` itself, or if that is a tar file, `folder`, which is removed afterwards.

    Raises:
        EdgeError: the file is not a tar of plain files, or holds more than a bundle may.
    """
    if not source.is_file():
        yield source
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        _unpack(source, folder)
        parts = list(folder.iterdir())
        yield parts[0] if len(parts) == 1 and (parts[0] / NAME).is_file() else folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # the next command that changes releases removes the rest


class _Member(tarfile.TarInfo):
    """A member with small headers only; tarfile's documentation names this method as the one to override."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type == tarfile.GNUTYPE_SPARSE or (self.type in _HEADERS and self.size > MAX_HEADER):
            raise EdgeError(f"expected plain files with short names in a tar file, found another header; {_AGAIN}")
        return super()._proc_member(tar)  # type: ignore[misc]


def _unpack(source: Path, folder: Path) -> None:
    total = count = 0
    try:
        # Uncompressed, so that the content is never larger than the file.
        with tarfile.open(source, "r:", tarinfo=_Member) as tar:
            for member in tar:
                name = os.path.normpath(member.name)
                total, count = total + member.size, count + 1
                if count > MAX_FILES or total > MAX_BYTES:
                    raise EdgeError(f"expected a bundle in {source.name}, found more files or bytes than it may hold")
                if member.isdir() and name == ".":
                    continue
                check_path(name)
                if member.isdir():
                    (folder / name).mkdir(parents=True, exist_ok=True)
                    continue
                content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
                if content is None:
                    raise EdgeError(f"expected plain files in {source.name}, found {name!a} of another kind; {_AGAIN}")
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with (folder / name).open("xb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, FileExistsError, NotADirectoryError, ValueError, RecursionError) as error:
        raise EdgeError(f"expected a whole tar file in {source.name}, found: {error}; {_AGAIN}") from None
