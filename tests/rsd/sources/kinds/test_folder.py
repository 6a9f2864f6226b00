import hashlib
import os
import random

import numpy as np
import pytest
from PIL import Image

from rsd.machine.errors import UserError
from rsd.sources.image_file import decode
from tests.rsd.sources.image_folders import equal, every, fill, index, paths, png, refused

# --- what an index holds ---


def test_an_index_describes_every_file_as_it_is(whole):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (12, 9)).save(whole / "train" / "cat" / "turned.jpg", exif=exif)
    result = index(whole)
    assert result.classes == ["cat", "dog"]
    assert (result.findings, result.ignored) == ([], {})
    for part in result.splits.values():
        assert part.paths == sorted(part.paths)
        assert part.labels.tolist() == [result.classes.index(path.split("/")[1]) for path in part.paths]
        for path, size, digest in zip(part.paths, part.sizes, part.digests, strict=True):
            image = decode(whole / path)
            assert size.tolist() == [image.height, image.width]
            assert bytes(digest) == hashlib.sha256((whole / path).read_bytes()).digest()
        assert (part.labels.dtype, part.sizes.dtype, part.digests.dtype) == (np.int64, np.int32, np.uint8)
    assert result.splits["train"].sizes[result.splits["train"].paths.index("train/cat/turned.jpg")].tolist() == [12, 9]


def test_statistics_are_those_of_the_training_pixels(flat):
    result = index(flat)
    pixels = np.concatenate([np.asarray(decode(flat / p)).reshape(-1, 3) for p in result.splits["train"].paths]) / 255
    np.testing.assert_allclose(result.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(result.std, pixels.std(0), rtol=1e-12)


def test_the_number_of_workers_changes_nothing(flat):
    one = index(flat, workers=1)
    assert all(equal(one, index(flat, workers=workers)) for workers in (2, 7))


def test_the_order_of_the_directory_changes_nothing(flat, monkeypatch):
    one = index(flat)
    scandir = os.scandir

    class Shuffled:
        def __init__(self, place):
            self.place = place

        def __enter__(self):
            entries = list(scandir(self.place))
            random.Random(1).shuffle(entries)
            return iter(entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr("rsd.sources.layout.os.scandir", Shuffled)
    assert equal(one, index(flat))


def test_nothing_below_the_root_is_written_or_touched(flat):
    def state():
        return {p: (p.stat().st_mtime_ns, p.stat().st_ctime_ns, p.stat().st_size) for p in [flat, *flat.rglob("*")]}

    (flat / "cat" / "bad.png").write_bytes(b"x")
    before = state()
    index(flat, on_bad="skip")
    assert state() == before


# --- splits ---


def test_three_given_splits_stay(whole):
    result = index(whole)
    for split, folder in {"train": "train", "validation": "val", "test": "test"}.items():
        assert paths(result)[split] == [f"{folder}/{c}/{i:03}.png" for c in ("cat", "dog") for i in range(4)]


@pytest.mark.parametrize("name", ["val", "test", "valid", "validation", "Val"])
def test_one_split_beside_train_is_the_test_split(tmp_path, name):
    fill(tmp_path, {f"{s}/{c}": 10 for s in ("train", name) for c in ("cat", "dog")})
    result = paths(index(tmp_path, validation=0.2))
    assert result["test"] == [f"{name}/{c}/{i:03}.png" for c in ("cat", "dog") for i in range(10)]
    assert {split: len(part) for split, part in result.items()} == {"train": 16, "validation": 4, "test": 20}
    assert all(path.startswith("train/") for path in result["train"] + result["validation"])


def test_class_folders_are_split_three_ways_by_class(flat):
    result = index(flat, test=0.2, validation=0.25)
    counts = {split: np.bincount(part.labels).tolist() for split, part in result.splits.items()}
    assert counts == {"train": [12, 6, 3], "validation": [4, 2, 1], "test": [4, 2, 1]}
    together = sorted(every(result))
    assert together == sorted(f"{p.parent.name}/{p.name}" for p in flat.glob("*/*"))


@pytest.mark.parametrize("count", range(3, 12))
@pytest.mark.parametrize("share", [0.01, 0.3, 0.49])
def test_every_split_has_every_class(tmp_path, count, share):
    fill(tmp_path, {"cat": count, "dog": 3})
    result = index(tmp_path, test=share, validation=share)
    assert all(set(part.labels) == {0, 1} for part in result.splits.values())
    assert len(every(result)) == count + 3


def test_a_split_depends_on_seed_and_class_only(flat):
    first = paths(index(flat))
    assert paths(index(flat)) == first
    assert paths(index(flat, seed=1)) != first
    fill(flat, {"ape": 7}, seed=1000)
    assert {split: [p for p in part if "ape" not in p] for split, part in paths(index(flat)).items()} == first


def test_without_hold_out_train_keeps_the_validation_images(flat):
    held, kept = index(flat), index(flat, hold_out=False)
    assert paths(kept)["validation"] == paths(held)["validation"]
    assert paths(kept)["test"] == paths(held)["test"]
    assert paths(kept)["train"] == sorted(paths(held)["train"] + paths(held)["validation"])


def test_train_share_leaves_validation_and_test_alone(flat):
    whole, half = index(flat), index(flat, train_share=0.5)
    for name in ("validation", "test"):
        assert paths(half)[name] == paths(whole)[name]
    assert set(paths(half)["train"]) < set(paths(whole)["train"])
    kept, of = (np.bincount(result.splits["train"].labels) for result in (half, whole))
    assert np.abs(kept - of / 2).max() <= 0.5


def test_copies_within_a_class_stay_together(tmp_path):
    fill(tmp_path, {"cat": 10, "dog": 10})
    for i in range(10):
        for copy in "ab":
            (tmp_path / "cat" / f"{i:03}{copy}.png").write_bytes((tmp_path / "cat" / f"{i:03}.png").read_bytes())
    for seed in range(5):
        result = index(tmp_path, seed=seed)
        kinds = {split: {bytes(d) for d in part.digests} for split, part in result.splits.items()}
        assert not kinds["train"] & kinds["test"]
        assert not kinds["train"] & kinds["validation"]
        assert not kinds["validation"] & kinds["test"]
        assert len(every(result)) == 40


def test_a_class_may_be_named_as_a_split(tmp_path):
    """CIFAR-100 has a class `train`."""
    assert index(fill(tmp_path, {"bus": 3, "train": 3, "test": 3})).classes == ["bus", "test", "train"]


# --- findings ---


def test_all_bad_files_are_listed_and_skipped(flat, tmp_path):
    good = index(flat)
    red = [Image.new("RGB", (8, 8), "red")]
    cat = flat / "cat"
    Image.new("CMYK", (8, 8)).save(cat / "cmyk.jpg")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(cat / "deep.png")
    Image.new("RGB", (8, 8)).save(cat / "moving.webp", save_all=True, append_images=red)
    Image.new("RGB", (8, 8)).save(cat / "moving.png", save_all=True, append_images=red)
    Image.new("RGB", (9, 1)).save(cat / "thin.png")
    Image.new("1", (1 << 13, (1 << 13) + 1)).save(cat / "wide.png")
    (cat / "cut.png").write_bytes(png(999)[:150])
    (cat / "none.jpg").write_bytes(b"")
    (cat / "text.JPEG").write_bytes(b"hello")
    (cat / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (cat / "inner").mkdir()
    (cat / "inner" / "a.png").write_bytes(png(1000))
    (cat / "round").symlink_to(flat)
    (cat / "self").symlink_to("self")
    (cat / "new\nline.png").write_bytes(png(1001))
    (flat / "dog" / os.fsdecode(b"\xff.png")).write_bytes(png(1002))
    (flat / "dog" / "007.png").write_bytes(b"\x89PNG then nothing")
    result = refused(
        flat,
        "cat/cmyk.jpg: CMYK",
        "cat/cut.png: truncated or damaged",
        "cat/deep.png: 16 bits per channel",
        "cat/gone.jpg: cannot be read: No such file or directory",
        "cat/moving.png: animated: 2 frames",
        "cat/moving.webp: animated: 2 frames",
        "cat/new\\nline.png: a name with control characters",
        "cat/none.jpg: empty: 0 bytes",
        "cat/round: a link to a folder that holds it",
        "cat/self: cannot be read: Too many levels of symbolic links",
        "cat/text.JPEG: not a JPEG, PNG, WebP, BMP or TIFF image",
        "cat/thin.png: tiny: 9 x 1 pixels",
        "cat/wide.png: huge: 8192 x 8193 pixels",
        "dog/007.png: truncated or damaged",
        "dog/\\udcff.png: a name with control characters or not in UTF-8",
    )
    assert set(every(result)) == set(every(good)) - {"dog/007.png"} | {"cat/inner/a.png"}


def test_images_in_nested_folders_count(flat, tmp_path):
    count = len(every(index(flat)))
    (flat / "cat" / "2024" / "may").mkdir(parents=True)
    (flat / "cat" / "2024" / "may" / "a.png").write_bytes(png(3000))
    (flat / "dog" / "in").mkdir()
    Image.new("RGB", (9, 9), "red").save(flat / "dog" / "in" / "b.bmp")
    Image.new("RGB", (9, 9), "blue").save(flat / "dog" / "in" / "c.tiff")
    result = index(flat)
    assert result.findings == []
    assert len(every(result)) == count + 3
    assert {"cat/2024/may/a.png", "dog/in/b.bmp", "dog/in/c.tiff"} < {*every(result)}


def test_links_between_nested_folders_end(flat):
    (flat / "cat" / "a").mkdir()
    (flat / "cat" / "b").mkdir()
    (flat / "cat" / "a" / "to-b").symlink_to(flat / "cat" / "b")
    (flat / "cat" / "b" / "to-a").symlink_to(flat / "cat" / "a")
    refused(
        flat,
        "cat/a/to-b/to-a: a link to a folder that holds it",
        "cat/b/to-a/to-b: a link to a folder that holds it",
    )


def test_other_files_are_ignored_and_counted(flat):
    (flat / "README").write_text("mine")
    (flat / "cat" / "a.txt").write_text("mine")
    (flat / "cat" / "b.TXT").write_text("mine")
    (flat / "dog" / "moving.gif").write_bytes(b"GIF89a")
    (flat / "dog" / ".DS_Store").write_bytes(b"")
    (flat / ".cache").mkdir()
    result = index(flat)
    assert result.ignored == {"no suffix": 1, ".txt": 2, ".gif": 1, "hidden": 2}
    assert result.findings == []


def test_ordinary_names_of_all_languages_are_fine(flat):
    for i, name in enumerate(["Grüße", "写真", "a b", "Screenshot\u202fPM", "né\u0301"]):
        (flat / "cat" / f"{name}.PNG").write_bytes(png(2000 + i))
    assert index(flat).findings == []


def test_the_test_split_keeps_a_shared_image(whole):
    content = (whole / "test" / "cat" / "001.png").read_bytes()
    (whole / "train" / "dog" / "copy.png").write_bytes(content)
    (whole / "val" / "cat" / "copy.png").write_bytes(content)
    result = refused(
        whole,
        "train/dog/copy.png: the same image as test/cat/001.png, in another split",
        "val/cat/copy.png: the same image as test/cat/001.png, in another split",
    )
    assert "test/cat/001.png" in paths(result)["test"]
    assert len(every(result)) == 24


def test_an_image_with_two_labels_is_dropped(flat):
    content = (flat / "cat" / "001.png").read_bytes()
    (flat / "dog" / "x.png").write_bytes(content)
    (flat / "dog" / "y.png").write_bytes(content)
    result = refused(
        flat,
        "cat/001.png: the same image as dog/x.png, of another class",
        "dog/x.png: the same image as cat/001.png, of another class",
        "dog/y.png: the same image as cat/001.png, of another class",
    )
    assert len(every(result)) == 34


def test_classes_without_a_usable_image_are_dropped(flat):
    (flat / "ape").mkdir()
    fill(flat, {"bee": 2, "fox": 0}, seed=500)
    (flat / "fox" / "a.png").write_bytes(b"bad")
    result = refused(
        flat,
        "ape: an empty class: no image in it",
        "bee: too few images: 2 different ones, at least 3 are needed",
        "fox/a.png: not a JPEG, PNG, WebP, BMP or TIFF image",
        "fox: no usable image among 1",
    )
    assert result.classes == ["cat", "dog", "emu"]
    assert all(set(part.labels) == {0, 1, 2} for part in result.splits.values())


def test_classes_missing_in_a_split_are_dropped(whole):
    fill(whole, {"train/ape": 3, "val/fox": 3, "test/fox": 2}, seed=500)
    result = refused(
        whole,
        "val/ape: no such class in val/, but in another split",
        "test/ape: no such class in test/, but in another split",
        "train/fox: no such class in train/, but in another split",
    )
    assert result.classes == ["cat", "dog"]
    assert len(every(result)) == 24


def test_images_outside_of_every_class_are_one_finding(whole):
    (whole / "train" / "a.png").write_bytes(png(600))
    (whole / "train" / "b.png").write_bytes(png(601))
    refused(whole, "train/: 2 images outside of any class, such as a.png")


def test_an_unlistable_folder_is_a_finding(flat, monkeypatch):
    scandir = os.scandir

    def refuse(place):
        if os.fspath(place).rstrip("/").endswith("emu"):
            raise PermissionError(13, "Permission denied")
        return scandir(place)

    monkeypatch.setattr("rsd.sources.layout.os.scandir", refuse)  # root may list everything
    refused(flat, "emu: an empty class", "emu: cannot be listed: Permission denied")


def test_a_linked_folder_is_a_class(flat, tmp_path):
    fill(tmp_path / "elsewhere", {"fox": 3}, seed=500)
    (flat / "fox").symlink_to(tmp_path / "elsewhere" / "fox")
    assert index(flat).classes == ["cat", "dog", "emu", "fox"]


def test_a_long_list_is_whole_in_the_file(flat, tmp_path):
    for i in range(30):
        (flat / "cat" / f"bad{i:02}.png").write_bytes(b"x")
    file = tmp_path / "out" / "findings.txt"
    with pytest.raises(UserError) as stopped:
        index(flat, findings_file=file)
    lines = str(stopped.value).splitlines()
    assert "found 30 to correct" in lines[0]
    assert (lines[1][:24], lines[20][:24], len(lines)) == ("   1. cat/bad00.png: not", "  20. cat/bad19.png: not", 22)
    assert lines[21] == f"  and 10 more, all in {file}"
    assert len(file.read_text().splitlines()) == 30
    with pytest.raises(UserError, match="30. cat/bad29.png"):
        index(flat)
    assert index(flat, on_bad="skip", findings_file=file).findings == file.read_text().splitlines()
    for bad in flat.glob("cat/bad*"):
        bad.unlink()
    index(flat, findings_file=file)
    assert not file.exists()  # or a list of old would be taken for a list of now


def test_fewer_than_two_classes_are_always_refused(tmp_path):
    fill(tmp_path, {"cat": 3, "dog": 1})
    with pytest.raises(UserError, match="at least two classes .* found 1; correct them:\n  1. dog: too few images"):
        index(tmp_path, on_bad="skip")
    for path in tmp_path.glob("*/*"):
        path.write_bytes(b"x")
    with pytest.raises(UserError, match="at least two classes .* found 0"):
        index(tmp_path, on_bad="skip")


# --- folders laid out in another way ---


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        ([], "expected a folder of images in .*, found no such folder"),
        (["."], "expected one folder of images per class in .*, found no folder"),
        (["train/cat", "test/cat", "cat"], "found train/ with folders in it beside cat/|found test/ .* beside cat/"),
        (["train/cat", "val/cat", "test"], "with folders in it beside test/; move one of them away"),
        (["train/cat"], "expected val/ or test/ beside train/ .* set data.root to .*train"),
        (["val/cat", "test/cat"], "expected train/ in .*, found only val/, test/|found only test/, val/"),
        (["train/cat", "val/cat", "valid/cat"], "expected one folder for the validation split .*, found val/valid/"),
        (["train", "test"], "expected class folders in .*, found images directly in it"),
    ],
)
def test_another_layout_is_one_sentence(tmp_path, folders, sentence):
    root = tmp_path / "images"
    for i, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        (root / folder / "a.png").write_bytes(png(i))
    with pytest.raises(UserError, match=sentence):
        index(root, on_bad="skip")
