import gzip
import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest

from rsd.machine.errors import UserError
from rsd.sources.kinds.cifar100 import Cifar100

NAMES = [f"class{i}" for i in range(100)]


def python2(value):
    """What Python 2 wrote for `value` in protocol 2, byte for byte as in the official files (but for the memo)."""

    def string(text):
        return b"T" + struct.pack("<I", len(text)) + text if len(text) > 255 else b"U" + bytes([len(text)]) + text

    def write(item):
        if isinstance(item, dict):
            return b"}(" + b"".join(write(k) + write(v) for k, v in item.items()) + b"u"
        if isinstance(item, list):
            return b"](" + b"".join(map(write, item)) + b"e"
        if isinstance(item, int):
            return b"J" + struct.pack("<i", item)
        if isinstance(item, np.ndarray):
            dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            shape = b"(" + b"".join(map(write, item.shape)) + b"t"
            start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
            return start + b"(K\x01" + shape + dtype + b"\x89" + string(item.tobytes()) + b"tb"
        return string(item.encode())

    return b"\x80\x02" + write(value) + b"."


def python3(value):
    """The same with keys of bytes, as Python 3 writes it."""
    return pickle.dumps({k.encode(): v for k, v in value.items()}, protocol=2)


def part(count, seed):
    generator = np.random.default_rng(seed)
    labels = [int(i) % 100 for i in range(count)]
    return {
        "filenames": [f"{i}.png" for i in range(count)],
        "batch_label": "part",
        "fine_labels": labels,
        "coarse_labels": [i % 20 for i in labels],
        "data": generator.integers(0, 256, (count, 3072), dtype=np.uint8),
    }


def contents(write):
    meta = {"fine_label_names": NAMES, "coarse_label_names": ["x"] * 20}
    return {"meta": write(meta), "train": write(part(30, 0)), "test": write(part(7, 1))}


def fill(folder, files):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def pack(path, members):
    """A .tar.gz of (TarInfo or name, bytes)."""
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            info = tarfile.TarInfo(info) if isinstance(info, str) else info
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def source(root, **values):
    return Cifar100(root=root, **values)


def check(splits):
    train, test = splits
    for images, wanted in ((train, part(30, 0)), (test, part(7, 1))):
        assert images.images.shape == (len(wanted["data"]), 32, 32, 3)
        # Channel c, row y, column x of an image is value 1024 c + 32 y + x of its row.
        assert images.images[5, 3, 4, 2] == wanted["data"][5, 2 * 1024 + 3 * 32 + 4]
        assert np.array_equal(images.images.transpose(0, 3, 1, 2).reshape(-1, 3072), wanted["data"])
        assert images.labels.tolist() == wanted["fine_labels"]
        assert images.classes == NAMES
        assert (images.images.dtype, images.labels.dtype) == (np.uint8, np.int64)


@pytest.mark.parametrize("write", [python2, python3])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("direct", [False, True], ids=["its folder", "itself"])
def test_reads_what_was_written(tmp_path, write, packed, direct):
    if packed:
        members = [(f"cifar-100-python/{name}", content) for name, content in contents(write).items()]
        place = pack(tmp_path / "cifar-100-python.tar.gz", members)
    else:
        place = tmp_path / "cifar-100-python"
        fill(place, contents(write))
    check(source(place if direct else tmp_path).load())


def test_nothing_is_unpacked(tmp_path):
    members = [(f"cifar-100-python/{name}", content) for name, content in contents(python2).items()]
    pack(tmp_path / "cifar-100-python.tar.gz", [*members, ("cifar-100-python/../../evil", b"x"), ("/evil", b"x")])
    check(source(tmp_path).load())
    assert os.listdir(tmp_path) == ["cifar-100-python.tar.gz"]


def test_a_link_in_the_archive_is_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(contents(python2)["meta"])
    link = tarfile.TarInfo("cifar-100-python/meta")
    link.type, link.linkname = tarfile.SYMTYPE, str(secret)
    members = [(f"cifar-100-python/{name}", content) for name, content in contents(python2).items() if name != "meta"]
    pack(tmp_path / "cifar-100-python.tar.gz", [(link, b""), *members])
    with pytest.raises(UserError, match="found: no file cifar-100-python/meta; fetch it again"):
        source(tmp_path).load()


def test_an_archive_of_huge_files_is_refused(tmp_path):
    big = tarfile.TarInfo("cifar-100-python/train")
    big.size = 1 << 40
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(gzip.compress(big.tobuf()))
    with pytest.raises(UserError, match="'cifar-100-python/train' of 1099511627776 bytes"):
        source(tmp_path).load()


def test_a_huge_header_in_an_archive_is_refused(tmp_path):
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 32
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(gzip.compress(header.tobuf() + bytes(1 << 16)))
    with pytest.raises(UserError, match="a part of 4294967296 bytes"):
        source(tmp_path).load()


def test_every_kind_of_cut_archive_is_one_sentence(tmp_path):
    members = [(f"cifar-100-python/{name}", content) for name, content in contents(python2).items()]
    path = pack(tmp_path / "cifar-100-python.tar.gz", members)
    whole = path.read_bytes()
    for length in [0, 5, 15, 200, *range(1000, len(whole) - 200, len(whole) // 20)]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="expected .*CIFAR-100 in .*; fetch it again"):
            source(tmp_path).load()
    path.write_bytes(whole[:1000] + bytes(100) + whole[1100:])
    with pytest.raises(UserError, match="fetch it again"):
        source(tmp_path).load()


def changed(**values):
    return part(30, 0) | values


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("train", changed(data=np.zeros((30, 3000), np.uint8)), r"uint8 \[N, 3072\] .* found uint8 \[30, 3000\]"),
        ("train", changed(data=np.zeros((30, 3, 1024), np.uint8)), r"found uint8 \[30, 3, 1024\]"),
        ("train", changed(data="x"), "found none"),
        ("train", changed(data=np.zeros((0, 3072), np.uint8), fine_labels=[]), r"as images \(0\)"),
        ("train", changed(fine_labels=[0] * 29), r"as many `fine_labels` as images \(30\) .* found 29"),
        ("train", changed(fine_labels="x"), "found no list"),
        ("train", changed(fine_labels=[100] + [0] * 29), "labels 0 to 99 .* found 100"),
        ("train", changed(fine_labels=[-1] + [0] * 29), "labels 0 to 99 .* found -1"),
        ("train", changed(fine_labels=["7"] + [0] * 29), "labels 0 to 99"),
        ("train", ["no", "dict"], "expected a dict in .*train, found a list"),
        ("meta", {"label_names": NAMES[:10]}, "100 different names .* found 0; .* not CIFAR-10"),
        ("meta", {"fine_label_names": ["same"] * 100}, "found 1;"),
    ],
)
def test_a_file_with_other_content_is_one_sentence(tmp_path, name, value, sentence):
    fill(tmp_path / "cifar-100-python", contents(python2) | {name: python2(value)})
    with pytest.raises(UserError, match=sentence):
        source(tmp_path).load()


def test_floats_are_no_images(tmp_path):
    fill(tmp_path / "cifar-100-python", contents(python3) | {"test": python3(changed(data=np.zeros((30, 3072))))})
    with pytest.raises(UserError, match=r"found float64 \[30, 3072\]"):
        source(tmp_path).load()


def test_a_malicious_file_is_refused_by_name(tmp_path):
    attack = b"cos\nsystem\n(S'touch " + os.fsencode(tmp_path / "was-here") + b"'\ntR."
    fill(tmp_path / "cifar-100-python", contents(python2) | {"meta": attack})
    with pytest.raises(UserError, match="meta, found the name os.system, which has no place"):
        source(tmp_path).load()
    assert not (tmp_path / "was-here").exists()


def test_a_cut_file_is_one_sentence(tmp_path):
    whole = contents(python2)
    for length in (0, 10, 1000, len(whole["train"]) - 1):
        folder = tmp_path / str(length)
        fill(folder, whole | {"train": whole["train"][:length]})
        with pytest.raises(UserError, match="train, found a damaged pickle .*; fetch it again"):
            source(folder).load()


def test_a_missing_file_or_folder_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="found neither; put one there, set data.root .* or set data.download"):
        source(tmp_path / "nowhere").load()
    files = contents(python2)
    del files["test"]
    fill(tmp_path / "cifar-100-python", files)
    with pytest.raises(UserError, match="found: no file test"):
        source(tmp_path).load()


def test_a_file_too_large_is_not_read(tmp_path):
    fill(tmp_path / "cifar-100-python", contents(python2))
    with (tmp_path / "cifar-100-python" / "train").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match="train of 1099511627776 bytes"):
        source(tmp_path).load()


def test_download_fetches_only_a_missing_archive(tmp_path, monkeypatch):
    calls = []

    def fetch(url, path, *, md5):
        calls.append((url, md5))
        path.parent.mkdir()
        pack(path, [(f"cifar-100-python/{name}", content) for name, content in contents(python2).items()])

    monkeypatch.setattr("rsd.sources.kinds.cifar100.download", fetch)
    check(source(tmp_path / "new", download=True).load())
    check(source(tmp_path / "new", download=True).load())
    assert calls == [
        ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
    ]
