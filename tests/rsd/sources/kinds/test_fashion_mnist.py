import gzip
import struct

import numpy as np
import pytest

from rsd.machine.errors import UserError
from rsd.sources.kinds.fashion_mnist import FashionMnist

NAMES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def idx(values):
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def root(tmp_path):
    """The four files with 200 + 20 random images; two of them packed."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 200), ("t10k", 20)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8) % 10))
        np.save(tmp_path / f"{part}.npy", images)
    return tmp_path


def source(root):
    return FashionMnist(root=root)


def test_reads_what_was_written_packed_or_plain(root):
    train, test = source(root).load()
    assert np.array_equal(train.images[..., 0], np.load(root / "train.npy"))
    assert np.array_equal(test.labels, np.arange(20) % 10)


def test_the_official_test_split_stays_whole(root):
    parts = source(root).splits()
    assert {name: len(part.labels) for name, part in parts.items()} == {"train": 180, "validation": 20, "test": 20}


def test_a_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no such folder; install Debian's package dataset-fashion-mnist"):
        source(tmp_path / "nowhere").load()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "found neither"),
        (b"", "expected an IDX file"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x09abc", "expected 9 bytes of data"),
        (idx(np.zeros(7, np.uint8)), "7 labels for 200"),
    ],
)
def test_a_damaged_file_is_one_sentence(root, content, sentence):
    path = root / "train-labels-idx1-ubyte"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        source(root).load()


def test_a_truncated_gzip_is_one_sentence(root):
    path = root / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="copy it again"):
        source(root).load()


def test_damage_inside_a_gzip_is_one_sentence(root):
    path = root / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[50:70] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(UserError, match="copy it again"):
        source(root).load()


def test_download_fetches_only_the_files_that_are_missing(root, monkeypatch):
    content = (root / "train-labels-idx1-ubyte").read_bytes()
    (root / "train-labels-idx1-ubyte").unlink()
    fetched = []

    def fetch(url, path, *, md5):
        fetched.append((url.rpartition("/")[2], md5))
        path.write_bytes(gzip.compress(content))

    monkeypatch.setattr("rsd.sources.kinds.fashion_mnist.download", fetch)
    with_download = source(root).model_copy(update={"download": True})
    assert len(with_download.load()[0].labels) == 200
    assert len(with_download.load()[0].labels) == 200
    assert fetched == [("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe")]
