"""A method from outside the package, in the pipeline."""

import json
import shutil
from pathlib import Path

import pytest
from dvc.utils.serialize import parse_yaml

from rsd.config.method_code import method_code
from rsd.machine.yaml_file import read_yaml
from rsd.methods import distiller, methods
from rsd.methods.base import Distiller
from stages import params
from tests.readme import block
from tests.stages.conftest import ROOT
from tests.stages.test_pipeline import ran


def test_params_writes_each_chosen_methods_code(tmp_path, monkeypatch):
    for name in methods():
        distiller(name)  # what is imported once is registered once
    monkeypatch.setattr(Distiller, "registry", dict(Distiller.registry))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "conf", "conf")
    chosen = read_yaml(ROOT / "params.yaml") | {"methods": ["scratch", "rsd", "cosine"], "export": {}}
    Path("params.yaml").write_text(json.dumps(chosen))
    Path("methods").mkdir()
    Path("methods/cosine.py").write_text(block("python", holding="CosineDistiller"))
    params.main()
    written = {file.stem: file.read_text() for file in Path("out/params/code").iterdir()}
    assert written == {name: method_code(name) for name in chosen["methods"]}
    assert written["cosine"].endswith(Path("methods/cosine.py").read_text())
    distill = read_yaml(ROOT / "dvc.yaml")["stages"]["distill"]
    assert "out/params/code/${item.method}.py" in distill["deps"]


@pytest.mark.slow
def test_an_own_method_is_retrained_when_it_changes(reproduced):
    file = reproduced.folder / "methods" / "cosine.py"
    before = (reproduced.folder / "params.yaml").read_text()
    choice = parse_yaml(block("yaml", holding="cosine"), "the page")
    try:
        file.write_text(block("python", holding="CosineDistiller"))
        choice["method"] |= parse_yaml(before, "params.yaml")["method"]
        reproduced.edit("params.yaml", **choice)
        first = ran(reproduced.run("dvc", "repro").stdout)
        assert "distill@cosine-0" in first
        assert not {"distill@scratch-0", "distill@rsd-0", "teacher", "embed"} & set(first)
        metrics = json.loads((reproduced.out / "evaluate" / "metrics.json").read_text())
        assert metrics.keys() == {"teacher", "scratch", "rsd", "cosine"}
        assert "COSINE" in (reproduced.out / "report.html").read_text()
        file.write_text(file.read_text().replace("1 - cosine", "2 - 2 * cosine"))
        again = ran(reproduced.run("dvc", "repro", "distill").stdout)
        assert [stage for stage in again if stage not in ("device", "sources", "students")] == [
            "params",
            "distill@cosine-0",
        ]
    finally:
        file.unlink()
        (reproduced.folder / "params.yaml").write_text(before)
        reproduced.run("dvc", "repro")
