"""Many params at once: each is answered, and equal digests mean equal params."""

from pathlib import Path

import pytest

from rsd.config.check import check

ROOT = Path(__file__).parents[3]


def sections(text: str, folder: Path) -> dict[str, str]:
    (folder / "0.yaml").write_text(text)
    return check(folder / "0.yaml", ROOT / "conf")["sections"]


def test_a_wrong_file_is_answered_with_its_sentence(tmp_path):
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "0.yaml").write_text(text.replace("kappa: 0.01 # of the redundancy", "kappa: -1 # of the redundancy"))

    answer = check(tmp_path / "0.yaml", ROOT / "conf")

    assert "params.yaml: method.rsd.kappa: expected at least 0, found -1" in answer["error"]
    assert str(tmp_path) not in answer["error"]


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("weight: 0.1 # of the RSD", "weight: 0.2 # of the RSD", {"method/rsd.json", "method/rsd+kd.json"}),
        ("seeds: [0, 1, 2]", "seeds: [0]", {"run.json"}),
        ("override: {}", "override: {recipe: {epochs: 12}}", {"recipe.json"}),
        ("recipe: # conf/recipe", "recipe: digits_few # what the pair says", set()),
    ],
)
def test_a_change_shows_in_its_own_section_only(tmp_path, old, new, changed):
    text = (ROOT / "params.yaml").read_text()
    assert old in text

    before, after = sections(text, tmp_path), sections(text.replace(old, new), tmp_path)

    assert {name for name in before if before[name] != after[name]} == changed


def test_each_chosen_methods_code_is_a_section(tmp_path):
    text = (
        (ROOT / "params.yaml").read_text().replace("methods: [scratch, rsd, rsd+kd]", "methods: [scratch, kd, rsd+kd]")
    )

    code = {name for name in sections(text, tmp_path) if name.startswith("code/")}

    assert code == {"code/scratch.py", "code/kd.py", "code/rsd+kd.py"}
