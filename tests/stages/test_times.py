"""Every stage that DVC runs leaves how long it took, where no other stage reads it."""

import gc

import pytest

from rsd.machine.errors import UserError
from rsd.run import times
from stages import run


def refuse():
    raise UserError("expected sense, found none")


def test_a_stage_of_dvc_notes_its_time(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "distill@rsd-0")
    run(lambda: None)
    [time] = times.read()
    assert time.stage == "distill@rsd-0"
    assert 0 < time.imports <= time.seconds


@pytest.mark.parametrize("variables", [{}, {"DVC_STAGE": "teacher", "TORCHELASTIC_ERROR_FILE": "error.json"}])
def test_by_hand_and_inside_torchrun_nothing_is_noted(monkeypatch, tmp_path, variables):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    run(lambda: None)
    assert not (tmp_path / ".state").exists()


def test_a_failed_stage_notes_nothing(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "teacher")
    with pytest.raises(SystemExit):
        run(refuse)
    assert times.read() == []


def test_a_state_that_cannot_be_written_fails_nothing(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "teacher")
    (tmp_path / ".state").touch()
    run(lambda: None)


def test_a_run_leaves_the_time_of_each_stage(reproduced):
    lines = reproduced.run("rsd", "table", "--time").stdout.splitlines()
    assert lines[0].split()[:3] == ["stage", "seconds", "share"]
    # Another test may have run the graph again meanwhile: its cells are then of an earlier run.
    assert any(line.removeprefix("from the cache: ").startswith("distill@rsd-0 ") for line in lines)
    assert any(line.startswith("total ") for line in lines)


def test_the_collector_is_on_while_a_stage_works(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    gc.disable()  # as `python -m stages.NAME` does during its imports
    states = []
    run(lambda: states.append((gc.isenabled(), gc.get_freeze_count() > 0)))
    assert states == [(True, True)]
