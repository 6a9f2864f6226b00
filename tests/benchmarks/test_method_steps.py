import pytest
import torch

from benchmarks import method_steps
from benchmarks.pair import Case, bench
from benchmarks.view_store import CASES
from rsd.machine.errors import UserError
from rsd.methods import methods


def test_every_method_has_a_row(monkeypatch):
    monkeypatch.setattr(method_steps, "CASES", {"digits": CASES["digits, 16 px"]._replace(batch=8, images=32)})
    monkeypatch.setattr(method_steps, "STEPS", {"digits": 1})
    rows = method_steps.compare("digits", method_steps.rows_of_the_table(), rounds=1, clock="cpu")
    assert {row["method"] for row in rows} == {"bare", "AAD alone", *methods()} - {"scratch"}
    beside = {row["method"]: row["beside"] for row in rows if row["beside"] != "scratch"}
    assert beside == {"bare": "bare scratch", "fitnet": "scratch + teacher"}


def test_an_unknown_row_is_one_sentence():
    with pytest.raises(UserError, match="^expected one of bare, AAD alone, .*, found 'rds'; did you mean rsd.$"):
        method_steps.main(method=["rds"])
    with pytest.raises(UserError, match="^expected one of digits, 16 px, .*, found 'digits'"):
        method_steps.main(only=["digits"])


def test_the_aad_alone_trains_its_scaffold(tmp_path):
    case: Case = CASES["digits, 16 px"]._replace(batch=8, images=32)
    pair = bench(case, tmp_path, torch.device("cpu"))
    task = method_steps.AADAlone(pair.student, method_steps.setting_of(pair))
    before = {name: value.clone() for name, value in task.scaffold_state().items()}
    pair.step(task, pair.stored)()
    assert any(not torch.equal(value, before[name]) for name, value in task.scaffold_state().items())
