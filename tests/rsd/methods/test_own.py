"""A method from outside the package: the README's own, and what can be wrong with one."""

import json
import sys
from pathlib import Path

import pytest
import torch
from dvc.utils.serialize import parse_yaml

from rsd.config.resolve import resolve
from rsd.machine import unfinished
from rsd.machine.errors import UserError
from rsd.machine.yaml_file import read_yaml
from rsd.methods import distiller, methods, own_methods, source
from rsd.methods.base import Distiller
from rsd.models.outputs import Outputs
from tests.readme import block
from tests.rsd.methods.tiny import take_step, task_of, teacher_outputs

ROOT = Path(__file__).parents[3]
CODE = block("python", holding="CosineDistiller")
CHOICE = parse_yaml(block("yaml", holding="cosine"), "the page")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder as a stage is started in; `add(name, code)` writes a method of the user's."""
    for name in methods():
        distiller(name)  # what is imported once is registered once
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Distiller, "registry", dict(Distiller.registry))
    loaded = {*sys.modules}
    (tmp_path / "methods").mkdir()

    def add(name: str, code: str = CODE) -> None:
        (tmp_path / "methods" / f"{name}.py").write_text(code)

    yield add
    for name in {*sys.modules} - loaded:
        if name.startswith("methods."):
            del sys.modules[name]


def chosen(folder: Path, **changes):
    params = read_yaml(ROOT / "params.yaml")
    choice = CHOICE | {"method": params["method"] | CHOICE["method"]}
    (folder / "params.yaml").write_text(json.dumps(params | choice | changes))
    return resolve(folder / "params.yaml", ROOT / "conf")


def test_the_documented_method_is_short_and_trains(project):
    assert sum(bool(line) for line in CODE.splitlines()) <= 20
    project("cosine")
    assert own_methods() == ["cosine"]
    assert "cosine" not in methods()
    task = task_of(distiller("cosine"), weight=0.5)
    optimizer = torch.optim.AdamW(task.trainable_module.parameters(), lr=1e-3)
    terms = []
    for _ in range(20):
        result = take_step(task)
        optimizer.zero_grad()
        result["loss"].backward()
        optimizer.step()
        terms.append((result["loss"].item(), result["cosine"].item()))
    (first_loss, first_cosine), (last_loss, last_cosine) = terms[0], terms[-1]
    assert last_loss < first_loss
    assert last_cosine < first_cosine
    assert result["loss"].item() == pytest.approx(result["cross_entropy"].item() + 0.5 * last_cosine)
    stored = Outputs(teacher_outputs().embedding.half(), teacher_outputs().logits.half())
    assert torch.isfinite(take_step(task, teacher=stored)["loss"])


def test_params_check_it_as_any_other(project, tmp_path):
    project("cosine")
    resolved = chosen(tmp_path)
    assert resolved["run"]["methods"] == ["scratch", "rsd", "cosine"]
    assert resolved["method"]["cosine"] == {"weight": 0.5}
    with pytest.raises(UserError, match="method.cosine.weigth: unknown key; did you mean weight?"):
        chosen(tmp_path, method={"cosine": {"weigth": 1.0}})
    with pytest.raises(UserError, match="method.cosine.weight: expected at least 0, found -1"):
        chosen(tmp_path, method={"cosine": {"weight": -1.0}})
    assert chosen(tmp_path, method={})["method"]["cosine"] == {"weight": 1.0}


def test_a_method_says_what_the_paper_sets(project, tmp_path):
    project("cosine", CODE + '    paper = {"weight": 2.0}\n')
    assert chosen(tmp_path, method={})["method"]["cosine"]["weight"] == 1.0
    resolved = chosen(tmp_path, method={}, protocol="paper")["method"]
    assert resolved["cosine"]["weight"] == 2.0
    assert resolved["rsd"]["correlation"] == "per_process"


def test_its_needs_are_checked_before_anything_runs(project, tmp_path):
    project("cosine", CODE.replace('{"logits"}', '{"logits", "stages"}'))
    with pytest.raises(UserError, match="1 to correct.*\n.*views.count: expected a live teacher for method 'cosine'"):
        chosen(tmp_path)


def test_its_code_names_an_unfinished_training(project):
    project("cosine")
    distiller("cosine")
    before = unfinished.code_digests()
    assert source("cosine") == Path("methods/cosine.py")
    assert "methods/cosine.py" in before
    project("cosine", CODE + "# changed\n")
    after = unfinished.code_digests()
    assert {name for name in before if before[name] != after[name]} == {"methods/cosine.py"}


def test_files_that_are_not_chosen_are_not_run(project, tmp_path):
    project("cosine")
    project("broken", "raise SystemExit('run')")
    project("_helper", "raise SystemExit('run')")
    chosen(tmp_path)
    assert own_methods() == ["broken", "cosine"]


@pytest.mark.parametrize(
    ("name", "code", "sentence"),
    [
        ("cosine", "import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found' (line 1)"),
        ("cosine", "x = 1\nx = (", "SyntaxError: '(' was never closed (cosine.py, line 2)"),
        ("cosine", "x = 1\ny = x / 0\n", "found ZeroDivisionError: division by zero (line 2); correct the file"),
        ("cosine", CODE.replace('{"logits"}', '{"logitz"}'), "expected `needs` as a set out of embedding, logits"),
        ("cosine", CODE.replace('frozenset({"logits"})', '"logits"'), "stages, found 'logits' (line"),
        ("cosine", "x = 1", "to define the method 'cosine' and no other"),
        ("cosine", CODE.replace('"cosine"):', '"cosines"):'), "found cosines; correct the file, or rename it"),
        ("cosine", CODE.replace('"cosine"):', '"rsd"):'), "found 'rsd', which is rsd.methods.rsd.RSDDistiller"),
        ("kd", CODE, "expected a name of its own for the method in methods/kd.py, found 'kd', which means something"),
        ("teacher", CODE, "expected a name of its own for the method in methods/teacher.py, found 'teacher'"),
    ],
)
def test_an_unusable_method_is_one_sentence(project, tmp_path, name, code, sentence):
    known = dict(Distiller.registry)
    project(name, code)
    with pytest.raises(UserError) as caught:
        chosen(tmp_path, methods=["scratch", "rsd", name], method={})
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("1 to correct")
    assert {key: kind for key, kind in Distiller.registry.items() if key in known} == known
    assert "cosine" not in Distiller.registry


def test_an_unknown_method_is_answered_with_all_names(project, tmp_path):
    project("cosine")
    with pytest.raises(UserError, match="expected a method out of .*scratch, cosine, found 'cosin'"):
        distiller("cosin")
    with pytest.raises(UserError, match="found 'cosin'; did you mean cosine?"):
        chosen(tmp_path, methods=["scratch", "rsd", "cosin"])
