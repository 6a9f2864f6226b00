import shutil
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import dump_yaml

from rsd.config.resolve import SECTIONS, resolve
from rsd.machine.errors import UserError
from rsd.machine.yaml_file import read_yaml
from rsd.methods import distiller, methods

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path):
    """A copy of params.yaml and conf/; `edit(key=value)` changes params.yaml, dots go down."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "conf", tmp_path / "conf")

    def edit(changes=None, file="params.yaml"):
        path = tmp_path / file
        content = read_yaml(path)
        for key, value in (changes or {}).items():
            *above, last = key.split(".")
            place = content
            for part in above:
                place = place.setdefault(part, {})
            place[last] = value
        dump_yaml(path, content)

    def resolved():
        return resolve(tmp_path / "params.yaml", tmp_path / "conf")

    edit({"pair": "digits/resnet-vit", "methods": ["scratch", "rsd"], "export.method": "rsd"})
    return edit, resolved


def test_what_is_shipped_is_valid_and_complete():
    resolved = resolve(ROOT / "params.yaml", ROOT / "conf")
    assert resolved.keys() == SECTIONS.keys() | {"method", "augment", "watched"}


@pytest.mark.parametrize("kind", ["data", "recipe", "pair"])
def test_every_named_choice_is_valid(project, kind):
    edit, resolved = project
    for path in sorted((ROOT / "conf" / kind).rglob("*.yaml")):
        edit({kind: str(path.relative_to(ROOT / "conf" / kind).with_suffix(""))})
        resolved()


def test_a_bundle_takes_the_datas_name(project):
    edit, resolved = project
    assert resolved()["bundle"]["name"] == "digits"
    edit({"bundle.name": "mine"})
    assert resolved()["bundle"]["name"] == "mine"
    edit({"bundle.name": None, "data": "fashion_mnist"})
    assert resolved()["bundle"]["name"] == "fashion_mnist"


def test_the_students_gate_trains_nothing_anew(project):
    edit, resolved = project
    before = resolved()
    edit({"override": {"student": {"min_top1": 50.0}}})
    after = resolved()
    assert (before["student_gate"], after["student_gate"]) == ({"min_top1": None}, {"min_top1": 50.0})
    assert before["student"] == after["student"]


def test_params_lie_above_the_pair_below_an_override(project):
    edit, resolved = project
    assert resolved()["run"]["recipe"] == "digits_vit"
    edit({"recipe": "digits_cnn", "override": {"recipe": {"epochs": 7, "augment": {"flip": True}}}})
    recipe = resolved()["recipe"]
    assert resolved()["run"]["recipe"] == "digits_cnn"
    assert recipe["epochs"] == 7
    assert (recipe["augment"]["shift"], recipe["augment"]["flip"]) == (2, True)  # merged, not replaced


def test_an_override_leaves_all_other_sections_alone(project):
    edit, resolved = project
    before = resolved()
    edit({"method.rsd.weight": 0.2})
    after = resolved()
    assert after["method"].pop("rsd") != before["method"].pop("rsd")
    assert after == before


def test_all_errors_are_listed_at_once_with_places(project):
    edit, resolved = project
    edit(
        {
            "seed": [1],
            "seeds": [],
            "methods": ["rsd", "kdd"],
            "method.rsd.weigth": 0.2,
            "method.rsd.kappa": -1,
            "override.recipe.epochs": "ten",
            "views.count": 1.5,
            "precisions": ["fp32", "fp8"],
        }
    )
    with pytest.raises(UserError) as caught:
        resolved()
    text = str(caught.value)
    for part in (
        "seed: unknown key; did you mean seeds?",
        "seeds: expected 1 or more values, found 0",
        "methods: expected scratch among them",
        "found 'kdd'",
        "method.rsd.weigth: unknown key; did you mean weight?",
        "method.rsd.kappa: expected at least 0, found -1",
        "recipe.epochs: expected a whole number",
        "found 'ten'",
        "views.count: expected a whole number",
        "precisions: expected names out of fp16, fp32, int8, found 'fp8'",
        "digits_vit.yaml",
    ):
        assert part in text, text
    assert text.startswith("9 to correct") or text.startswith("10 to correct"), text


def test_an_unknown_choice_lists_those_there_are(project):
    edit, resolved = project
    edit({"pair": "digits/resnet-vti"})
    with pytest.raises(UserError, match="pair: expected a name out of .*found 'digits/resnet-vti'; did you mean"):
        resolved()


def test_a_shipped_method_must_be_trained(project):
    edit, resolved = project
    edit({"methods": ["scratch"]})
    with pytest.raises(UserError, match="export.method: expected one of methods"):
        resolved()


def test_a_method_that_needs_live_views_is_refused(project):
    edit, resolved = project
    edit({"methods": ["scratch", "rsd", "fitnet"]})
    with pytest.raises(UserError, match="1 to correct.*\n.*views.count: expected a live teacher for method 'fitnet'"):
        resolved()
    edit({"views.count": 0})
    assert resolved()["method"]["fitnet"] == {"weight": 0.1}


@pytest.mark.parametrize(
    ("method", "model", "refused"),
    [
        ("fitnet", "student", True),
        ("rsd+fitnet", "student", True),
        ("ofa", "student", True),
        ("fitnet", "teacher", True),
        ("ofa", "teacher", False),
        ("rsd", "student", False),
    ],
)
def test_a_model_without_stages_is_refused(project, method, model, refused):
    edit, resolved = project
    edit({"methods": ["scratch", method], "export.method": method, "views.count": 0})
    edit({f"{model}.name": "crossvit_tiny_240", f"{model}.args": {}}, file="conf/pair/digits/resnet-vit.yaml")
    if not refused:
        assert resolved()[model]["name"] == "crossvit_tiny_240"
        return
    sentence = rf"^1 to correct.*\n.*: {model}.name: expected a model .* four stages, found CrossVit"
    with pytest.raises(UserError, match=sentence):
        resolved()


def test_every_method_has_a_section_with_every_option(project):
    _, resolved = project
    written = read_yaml(ROOT / "params.yaml")["method"]
    assert written.keys() == set(methods())
    assert resolved()["method"] == written


def test_params_are_read_as_dvc_reads_them(project, tmp_path):
    _, resolved = project
    file = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    file.write_text(
        text.replace("weight: 0.1 # of the RSD", "weight: 1e-5 # of the RSD").replace(
            "seeds: [0, 1, 2]", "seeds: [010]"
        )
    )
    assert resolved()["method"]["rsd"]["weight"] == 1e-5
    assert resolved()["run"]["seeds"] == [10]
    file.write_text(text + "\nseeds: [3]\n")
    with pytest.raises(UserError, match="expected YAML in .*duplicate key"):
        resolved()


@pytest.mark.parametrize(("setting", "number"), [("1e-5", 1e-5), ("0.0000001", 1e-7), ("1E+2", 100.0), ("2", 2.0)])
def test_a_number_that_dvc_sets_stays_a_number(project, tmp_path, setting, number):
    _, resolved = project
    apply_overrides(tmp_path / "params.yaml", [f"method.rsd.weight={setting}"])  # as `dvc exp run -S` does
    assert resolved()["method"]["rsd"]["weight"] == number


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pair": "digits/resnt-vit"}, "found 'digits/resnt-vit'; did you mean digits/resnet-vit?"),
        ({"pair": None}, "found None"),
        ({"pair": 3}, "found 3"),
        ({"pair": ["a"], "data": "digits"}, "found ['a']"),
        ({"data": "digts"}, "found 'digts'; did you mean digits?"),
        ({"recipe": "digits_vitt"}, "found 'digits_vitt'; did you mean digits_vit?"),
        ({"override.teacher.recipe": "digits_cn"}, "found 'digits_cn'; did you mean digits_cnn?"),
        ({"methods": ["scratch", "rds"]}, "found 'rds'; did you mean rsd?"),
    ],
)
def test_a_mistyped_name_is_the_only_fault_told(project, changes, sentence):
    edit, resolved = project
    edit(changes)
    with pytest.raises(UserError) as caught:
        resolved()
    first, *faults = str(caught.value).splitlines()
    assert first == "1 to correct in the params:"
    assert len(faults) == 1
    assert sentence in faults[0]
    assert "None.yaml" not in faults[0]


def test_yes_is_a_word(project, tmp_path):
    edit, resolved = project
    edit({"compute": {}})
    file = tmp_path / "params.yaml"
    file.write_text(file.read_text().replace("compute: {}", "compute: {compile: yes}"))
    with pytest.raises(UserError, match="compute.compile: expected true or false, found 'yes'"):
        resolved()


@pytest.mark.parametrize("kind", ["data/digits", "pair/digits/resnet-vit", "recipe/digits_vit"])
@pytest.mark.parametrize(
    ("content", "problem"), [(b"a: 1\na: 2\n", "duplicate key"), (b"a: \xff\n", "can't decode byte 0xff")]
)
def test_a_faulty_named_choice_is_refused(project, tmp_path, kind, content, problem):
    _, resolved = project
    (tmp_path / "conf" / f"{kind}.yaml").write_bytes(content)
    with pytest.raises(UserError, match=f"expected YAML in .*{kind}.yaml, found: .*{problem}"):
        resolved()


def test_broken_yaml_or_no_file_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="expected the file"):
        resolve(tmp_path / "params.yaml", ROOT / "conf")
    (tmp_path / "params.yaml").write_text("a: [1")
    with pytest.raises(UserError, match="expected YAML in .*params.yaml"):
        resolve(tmp_path / "params.yaml", ROOT / "conf")
    (tmp_path / "params.yaml").write_text("[1]")
    with pytest.raises(UserError, match="expected keys and values"):
        resolve(tmp_path / "params.yaml", ROOT / "conf")


def test_sections_of_the_wrong_kind_are_refused(project):
    edit, resolved = project
    edit({"override": {"recipe": 3}, "method": [1], "views": 7})
    with pytest.raises(UserError) as caught:
        resolved()
    for part in ("override.recipe", "method: expected", "views"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seeds": [0, 0]}, "seeds: expected each of them once, found [0, 0]"),
        ({"seeds": [-1]}, "seeds.0: expected at least 0, found -1"),
        ({"seeds": [True]}, "seeds.0: expected a whole number, found True"),
        ({"views.seed": -1}, "views.seed: expected at least 0"),
        ({"seeds": [2**32]}, "seeds.0: expected less than 4294967296, found 4294967296"),
        ({"views.seed": 2**64}, "views.seed: expected less than 4294967296"),
        ({"override.data.seed": 2**32}, "data.seed: expected less than 4294967296"),
        ({"override.teacher.seed": 2**32}, "teacher.seed: expected less than 4294967296"),
        ({"compute.threads": 10**10}, "compute.threads: expected at most 1024"),
        ({"views.count": "30"}, "views.count: expected a whole number, found '30'"),
        ({"method.rsd.weight": float("inf")}, "method.rsd.weight: expected a finite number, found inf"),
        ({"override.recipe.optimizer": "adamww"}, "recipe.optimizer: expected an optimizer of timm"),
        (
            {"override.recipe.epochs": 30, "override.recipe.warmup_epochs": 50},
            "recipe: expected fewer warmup_epochs than epochs, found 50 of 30",
        ),
        ({"override.student.min_top1": 101}, "student.min_top1: expected at most 100, found 101"),
        ({"override.student.name": "vit_tinny"}, "student.name: expected the name of a timm model, found 'vit_tinny'"),
        ({"override.data.source": "digts"}, "data.source: expected a source of images out of cifar100, digits, "),
        ({"override.data.source": "digts"}, "found 'digts'; did you mean digits?"),
        ({"override.data.sized": 8}, "data.sized: unknown key; did you mean size?"),
        (
            {"override.teacher.source": "hubb"},
            "teacher.source: expected a kind of teacher out of file, finetune, hub, ",
        ),
        ({"override.student.weights": "out/students/rsd-0"}, "student.weights: expected weights that no run replaces"),
        ({"override.student.weights": 3}, "student.weights: expected text, found 3"),
        ({"override.teacher.source": "file"}, "teacher.weights: missing; give it a value"),
        ({"override.teacher.weights": "mine.pth"}, "teacher.weights: unknown key"),
        ({"export.opset": 99}, "export.opset: expected at most"),
        ({"export.opset": 21}, "export.opset: expected at most 20 with int8 among the precisions"),
    ],
)
def test_what_would_fail_later_is_refused_at_once(project, change, sentence):
    edit, resolved = project
    edit(change)
    with pytest.raises(UserError) as caught:
        resolved()
    assert sentence in str(caught.value)


def test_a_method_without_a_section_has_its_defaults(project):
    edit, resolved = project
    edit({"method": {}})
    assert resolved()["method"]["rsd"] == distiller("rsd").Options().model_dump()


def test_methods_that_compare_images_refuse_batches_in_parts(project):
    edit, resolved = project
    edit({"methods": ["scratch", "rsd", "kd", "ofa"], "override.recipe.accumulation": 4})
    with pytest.raises(UserError) as caught:
        resolved()
    assert "recipe.accumulation: expected 1 with method 'rsd', which compares all images" in str(caught.value)
    assert str(caught.value).startswith("1 to correct")
    edit({"methods": ["scratch", "kd", "ofa"], "export.method": "kd"})
    assert resolved()["recipe"]["accumulation"] == 4
    edit({"method.ofa.loss": "rsd"})
    with pytest.raises(UserError, match="expected 1 with method 'ofa'"):
        resolved()


def test_a_batch_that_processes_cannot_share_is_refused(project):
    edit, resolved = project
    edit({"compute.processes": 3})
    with pytest.raises(UserError) as caught:
        resolved()
    for name in ("recipe", "teacher_recipe"):
        assert f"{name}.batch_size: expected a multiple of compute.processes x accumulation (3 x 1 = 3)" in str(
            caught.value
        )


@pytest.mark.parametrize("data", ["fashion_mnist", "cifar100", "imagenet"])
def test_a_tilde_in_paths_is_the_home_folder(project, monkeypatch, tmp_path, data):
    edit, resolved = project
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    edit({"data": data, "override": {"data": {"root": "~/images"}}})
    edit(
        {"override.teacher": {"source": "file", "weights": "~/mine.safetensors"}, "override.student.weights": "~/first"}
    )
    sections = resolved()
    assert sections["data"]["root"] == str(tmp_path / "home" / "images")
    assert sections["teacher"]["weights"] == str(tmp_path / "home" / "mine.safetensors")
    assert sections["student"]["weights"] == str(tmp_path / "home" / "first")
    assert sections["watched"] == {
        "data": [sections["data"]["root"]],
        "teacher": [sections["teacher"]["weights"]],
        "student": [sections["student"]["weights"]],
    }
    edit({"override.data.root": "~nobody-has-this-name/images"})
    with pytest.raises(UserError, match="data.root: expected ~ to stand for a user's home folder, found none"):
        resolved()
