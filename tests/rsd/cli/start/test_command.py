"""`rsd start`, as a user meets it."""

import shutil

from PIL import Image

from rsd.config.resolve import resolve
from tests.command import rsd
from tests.rsd.sources.image_folders import fill, png


def state(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_becomes_a_run_that_resolves(clone, images, capsys):
    before = (clone / "params.yaml").read_text()
    assert not rsd("start", str(images), "--device", "pi5")
    out = capsys.readouterr().out
    assert "60 images with a label in 2 classes, none without" in out
    assert "an estimate, from a few steps timed on this machine" in out
    assert out.splitlines()[-1] == "next: make repro (or dvc repro, then rsd table)"
    resolved = resolve(clone / "params.yaml", clone / "conf")
    assert resolved["run"]["pair"] == resolved["run"]["data"] == "my-images"
    assert resolved["run"]["methods"] == ["scratch", "rsd"]
    assert resolved["run"]["precisions"] == ["fp32", "int8"]
    assert resolved["data"]["root"] == str(images)
    assert resolved["data"]["size"] == 16
    assert resolved["recipe"]["select"] == "last"  # of six validation images
    comments = [line.partition("#")[2] for line in before.splitlines() if "#" in line]
    assert [
        line.partition("#")[2] for line in (clone / "params.yaml").read_text().splitlines() if "#" in line
    ] == comments


def test_unlabelled_images_bring_the_sum_of_methods(clone, images):
    fill(images, {"unlabelled": 20}, seed=900, side=20)
    assert not rsd("start", str(images))
    resolved = resolve(clone / "params.yaml", clone / "conf")
    assert resolved["run"]["methods"] == ["scratch", "rsd", "rsd+kd"]
    assert resolved["run"]["ships"] == "rsd+kd"


def test_a_table_of_another_form_is_rewritten(clone, images, capsys):
    table = images.parent / "labels.csv"
    rows = [f"{path.relative_to(images)};{path.parent.name}".replace("/", "\\") for path in images.rglob("*.png")]
    table.write_bytes("\r\n".join(["Datei;Klasse", *sorted(rows)[:40]]).encode("utf-16"))
    assert not rsd("start", str(images), "--labels", str(table))
    assert "semicolons, UTF-16; paths in column 'Datei', classes in 'Klasse'" in capsys.readouterr().out
    lines = (clone / "conf" / "data" / "my-images.csv").read_text().splitlines()
    assert lines[:2] == ["path,class", "cat/000.png,cat"]
    resolved = resolve(clone / "params.yaml", clone / "conf")
    assert resolved["data"]["labels"] == "conf/data/my-images.csv"


def test_faulty_rows_keep_their_lines(clone, images):
    table = images.parent / "labels.csv"
    rows = [f"{path.relative_to(images)};{path.parent.name}" for path in sorted(images.rglob("*.png"))]
    table.write_text("\n".join(["file;kind", *rows, "cat/000.png;dog", "cat/001.png;cat", "cat/900.png;cat"]))
    error = rsd("start", str(images), "--labels", str(table))
    for fault in (
        "line 62: cat/000.png as cat and as dog",
        "line 63: cat/001.png again",
        "line 64: no image cat/900.png below",
    ):
        assert fault in error
    assert not (clone / "conf" / "data" / "my-images.csv").exists()


def test_nothing_is_overwritten_without_force(clone, images):
    assert not rsd("start", str(images))
    before = state(clone)
    assert "found conf/data/my-images.yaml" in rsd("start", str(images))
    assert "expected a new name" in rsd("start", str(images), "--name", "digits")
    assert state(clone) == before
    assert not rsd("start", str(images), "--force")


def test_a_wrong_call_is_one_sentence(clone, images, tmp_path):
    empty, flat, one = tmp_path / "empty", tmp_path / "flat", tmp_path / "one"
    for folder in (empty, flat, one / "cat"):
        folder.mkdir(parents=True)
        for number in range(0 if folder == empty else 5):
            (folder / f"{number}.png").write_bytes(png(number))
    (empty / "a.heic").touch()
    before = state(clone)
    for arguments, sentence in (
        ((str(tmp_path / "none"),), "expected a folder of images at"),
        ((str(empty),), "found 1 .heic; correct the path, or convert them"),
        ((str(empty), "--labels", str(flat / "0.png")), "found 1 .heic; correct the path"),
        ((str(images), "--labels", str(flat / "0.png")), "found a binary file; save it as CSV"),
        ((str(flat),), "sort them into folders, or name their classes in a table: --labels"),
        ((str(one),), "expected at least two classes of usable images"),
        ((str(images), "--device", "phone"), "expected a device out of pi5, cpu, jetson, found 'phone'"),
        ((str(images), "--student", "resnet81"), "expected the name of a timm model, found 'resnet81'"),
        ((str(images), "--teacher", "vit_base_patch16_224"), "fetch them where there is a network"),
        ((str(images), "--teacher", "x.pth"), "expected weights at x.pth, found no such file"),
        ((str(images), "--labels", "none.csv"), "expected a table of labels at"),
        ((str(images), "--label-column", "2"), "expected a table for --label-column"),
        ((str(images), "--name", "A/b"), "expected a name of small letters"),
    ):
        error = rsd("start", *arguments)
        assert sentence in error, arguments
        assert error.startswith("error: expected")
    assert state(clone) == before


def test_a_faulty_compute_section_is_a_sentence(clone, images):
    params = clone / "params.yaml"
    params.write_text(params.read_text().replace("  threads: 1", "  threads: none"))
    assert "params.yaml: compute.threads: " in rsd("start", str(images))


def test_another_folder_is_no_clone(tmp_path, images, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "expected a clone of the project" in rsd("start", str(images))


def test_odd_files_are_listed_and_left_out(clone, images, capsys):
    Image.new("CMYK", (20, 20)).save(images / "cat" / "print.jpg")
    Image.new("L", (3, 3)).save(images / "cat" / "tiny.png")
    shutil.copy(images / "cat" / "003.png", images / "cat" / "copy.png")
    (images / "cat" / "x.gif").touch()
    assert not rsd("start", str(images))
    out = capsys.readouterr().out
    for words in ("1. cat/print.jpg: CMYK", "1 under a quarter", "grey 1", "1 image the same as another", "1 .gif"):
        assert words in out
    assert resolve(clone / "params.yaml", clone / "conf")["data"]["on_bad"] == "skip"
