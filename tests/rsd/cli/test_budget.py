"""What the commands refuse; what they do is tested with kits, in tests/rsd/measure/budget."""

import pytest

from tests.command import rsd
from tests.rsd.run.small import evaluate, index, student, whole_run


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["kit", "kit"], "expected prepared data, for the image size and the classes, found none in out/data"),
        (["kit", "kit", "--precision", "fp4"], "found 'fp4'"),
        (["kit", "kit", "no_such_model", "--image", "8", "8", "1", "--classes", "2"], "the name of a timm model"),
        (["run", "kit"], "expected a kit, a folder or a .tar.gz, at kit"),
        (["import", "none.json"], "error: expected "),
        (["keep"], "found none; run `dvc repro params`"),
        (["show"], "expected latencies of a device, found none"),
    ],
)
def test_a_wrong_call_is_a_sentence(arguments, sentence):
    assert sentence in rsd("budget", *arguments)


def test_keep_refuses_stages_of_two_students(tmp_path):
    run = whole_run(tmp_path / "out")
    assert rsd("budget", "keep") == ""
    kept = (tmp_path / "budget" / "trained.json").read_text()

    run.write(student(run, "rsd", "trained anew"))  # as `dvc exp run -S method.rsd.weight=0.3 evaluate` leaves it
    index(run)
    evaluate(run)
    refusal = rsd("budget", "keep")
    assert refusal.startswith("error: expected a trained, evaluated and exported student in out, found none (")
    assert refusal.endswith(" are left out: students/rsd-0/model.safetensors is another by now; run `dvc repro`)")
    assert (tmp_path / "budget" / "trained.json").read_text() == kept


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show", "--p99", "-1"], "expected a number from 0.001 to 1,000,000, found '-1'"),
        (["show", "--p99", "nan"], "expected a number from 0.001 to 1,000,000, found 'nan'"),
        (["kit", "kit", "--seconds", "inf"], "expected a number from 0.001 to 86,400, found 'inf'"),
        (["kit", "kit", "--classes", "0"], "expected a whole number from 1 to 1,000,000, found '0'"),
        (["kit", "kit", "--image", "0", "32", "3"], "expected a whole number from 1 to 8,192, found '0'"),
    ],
)
def test_a_number_out_of_bounds_is_refused(arguments, sentence, capsys):
    assert rsd("budget", *arguments) == "2"
    assert sentence in capsys.readouterr().err
