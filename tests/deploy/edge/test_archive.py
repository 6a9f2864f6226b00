"""A bundle as one tar file is taken as its folder is, and nothing else that a tar file can hold."""

import io
import random
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Literal

import pytest
from rsd_edge import archive
from rsd_edge.errors import EdgeError
from rsd_edge.releases import Releases

from tests.bundles import packed


@pytest.fixture
def releases(tmp_path):
    return Releases(tmp_path / "device")


def made(path: Path, *members: tarfile.TarInfo, mode: Literal["w", "w:gz"] = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, target
    return info


def left(releases: Releases) -> list[str]:
    return sorted(path.name for path in releases.folder.iterdir())


def test_a_tar_installs_exactly_as_its_folder(shared, releases, tmp_path):
    tar = packed(shared.first, tmp_path / "tiny-1.tar")
    assert releases.install(tar, shared.keys) == ("tiny-1", True)
    assert releases.install(tar, shared.keys) == ("tiny-1", False)
    assert releases.install(shared.first, shared.keys) == ("tiny-1", False)
    assert releases.activate(shared.keys) == "tiny-1"
    assert left(releases) == ["tiny-1"]


def test_a_tar_with_the_folder_inside_installs(shared, releases, tmp_path):
    tar = tmp_path / "x.tar"
    subprocess.run(["tar", "-C", shared.first.parent, "-cf", tar, shared.first.name], check=True)
    assert releases.install(tar, shared.keys) == ("tiny-1", True)
    assert left(releases) == ["tiny-1"]


def test_the_folder_above_a_bundle_is_named(shared, releases, tmp_path):
    shutil.copytree(shared.first, tmp_path / "releases" / "tiny-1")
    with pytest.raises(EdgeError, match="found one in its folder 'tiny-1'; give that"):
        releases.install(tmp_path / "releases", shared.keys)


REFUSED = {
    "a path up": ([member("../up")], "found '../up'"),
    "an absolute path": ([member("/tmp/up")], "found '/tmp/up'"),
    "a link": ([member("labels.json", tarfile.SYMTYPE, target="/etc/passwd")], "found 'labels.json' of another kind"),
    "a hard link": ([member("labels.json", tarfile.LNKTYPE, target="/etc/passwd")], "of another kind"),
    "a file through a link": (
        [member("golden", tarfile.SYMTYPE, target="/tmp"), member("golden/up")], "found 'golden' of another kind",
    ),
    "a device": ([member("labels.json", tarfile.CHRTYPE)], "of another kind"),
    "a pipe": ([member("labels.json", tarfile.FIFOTYPE)], "of another kind"),
    "a sparse file": ([member("labels.json", tarfile.GNUTYPE_SPARSE, 512)], "found another header"),
    "a long name": ([member("x", tarfile.GNUTYPE_LONGNAME, 65537)], "found another header"),
    "a long link": ([member("x", tarfile.GNUTYPE_LONGLINK, 65537)], "found another header"),
    "attributes of a file": ([member("x", tarfile.XHDTYPE, 65537)], "found another header"),
    "attributes of all files": ([member("x", tarfile.XGLTYPE, 65537)], "found another header"),
    "attributes as Solaris has them": ([member("x", tarfile.SOLARIS_XHDTYPE, 65537)], "found another header"),
    "headers of headers": ([member("x", tarfile.GNUTYPE_LONGNAME, 1)] * 2000, "found: maximum recursion"),
    "its own folder again and again": ([member(".", tarfile.DIRTYPE)] * 2000, "found more files or bytes"),
    "a file twice": ([member("labels.json"), member("labels.json")], "File exists"),
    "a file below a file": ([member("a"), member("a/b")], "found: "),
    "too many files": ([member(str(number)) for number in range(1001)], "found more files or bytes"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_only_plain_files_below_the_folder_are_unpacked(shared, releases, tmp_path, kind):
    members, sentence = REFUSED[kind]
    with pytest.raises(EdgeError, match="^expected .*" + sentence):
        releases.install(made(tmp_path / "x.tar", *members), shared.keys)
    assert left(releases) == []
    assert not (tmp_path / "device" / "up").exists()
    assert releases.status()["events"][-1]["event"] == "refused"


def test_too_many_bytes_are_refused_before_writing(shared, releases, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    written: list[str] = []
    monkeypatch.setattr(archive.shutil, "copyfileobj", lambda *files: written.append("some"))
    with pytest.raises(EdgeError, match="found more files or bytes"):
        releases.install(made(tmp_path / "x.tar", member("a", size=2000)), shared.keys)
    assert not written


def test_a_large_header_is_refused_before_reading(releases, tmp_path):
    size = 1 << 40  # none of it is there
    head = member("././@LongLink", tarfile.GNUTYPE_LONGNAME, size).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "x.tar").write_bytes(head + bytes(1024))
    with pytest.raises(EdgeError, match="found another header"):
        releases.install(tmp_path / "x.tar", [])


def test_names_longer_than_a_tar_header_are_taken(tmp_path):
    (tmp_path / "bundle" / ("x" * 100)).mkdir(parents=True)
    (tmp_path / "bundle" / ("x" * 100) / ("y" * 100)).write_text("z")
    for format_ in ("gnu", "pax"):
        tar = tmp_path / f"{format_}.tar"
        subprocess.run(["tar", f"--format={format_}", "-C", tmp_path / "bundle", "-cf", tar, "."], check=True)
        with archive.unpacked(tar, tmp_path / format_) as folder:
            assert (folder / ("x" * 100) / ("y" * 100)).read_text() == "z"


def test_a_compressed_tar_is_refused(shared, releases, tmp_path):
    with pytest.raises(EdgeError, match="expected a whole tar file"):
        releases.install(made(tmp_path / "x.tar", member("labels.json"), mode="w:gz"), shared.keys)


def test_cut_or_changed_anywhere_it_is_refused(shared, releases, tmp_path):
    """Or, where the change is in what tar ignores, taken: then the bundle in it is whole."""
    whole = packed(shared.first, tmp_path / "tiny-1.tar").read_bytes()
    source = random.Random(0)
    end = len(whole.rstrip(b"\0"))
    refused = 0
    for turn in range(60):
        content = bytearray(whole)
        place = source.randrange(end)
        if turn % 2:
            content[place] ^= 1 << source.randrange(8)
        else:
            del content[place:]
        (tmp_path / "x.tar").write_bytes(content)
        device = Releases(tmp_path / f"device-{turn}")
        try:
            device.install(tmp_path / "x.tar", shared.keys)
        except EdgeError:
            refused += 1
            assert left(device) == []
        else:
            assert device.activate(shared.keys) == "tiny-1"
            assert turn % 2, "a file that was cut was taken"
    assert refused > 50


def test_the_next_command_cleans_up_a_killed_unpacking(shared, releases, tmp_path):
    (releases.folder / ".unpacked" / "fp32").mkdir(parents=True)
    (releases.folder / ".unpacked" / "fp32" / "model.onnx").write_bytes(b"half")
    releases.recover(shared.keys)
    assert left(releases) == []
