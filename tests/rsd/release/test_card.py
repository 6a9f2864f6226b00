"""The model card of a bundle."""

import pytest
from huggingface_hub import ModelCard

from rsd.release.card import bundle_card
from rsd.run.records import StudentRecord
from tests.bundles import ingredients
from tests.rsd.models import test_card
from tests.rsd.models.small import dataset
from tests.rsd.run import small


def card(folder, licence: str = "MIT") -> ModelCard:
    made = ingredients(folder, precisions=("fp32", "int8"))
    export = made["export"].model_copy(update={"license": licence})
    student: StudentRecord = test_card.record()
    return bundle_card(student, small.teacher(), dataset(), export=export, converted=made["converted"])


def test_it_adds_test_accuracy_files_and_licence(tmp_path):
    text = str(card(tmp_path))
    (tmp_path / "README.md").write_text(text)
    read = ModelCard.load(tmp_path / "README.md")

    assert "| test | 98.00 % |" in text
    assert "| `int8/model.onnx` | 0.00 MB | 50.00 % |" in text
    assert read.data.license == "mit"
    assert read.data.library_name == "onnx"
    assert [result.dataset_split for result in read.data.eval_results] == ["validation", "test"]


@pytest.mark.parametrize(
    ("spdx", "fields"),
    [
        ("NOASSERTION", ("unknown", None)),
        ("Apache-2.0", ("apache-2.0", None)),
        ("LicenseRef-Ours", ("other", "LicenseRef-Ours")),
        ("MIT OR Apache-2.0", ("other", "MIT OR Apache-2.0")),
    ],
)
def test_the_licence_is_told_in_the_hubs_fields(tmp_path, spdx, fields):
    about = card(tmp_path, spdx).data.to_dict()
    assert (about.get("license"), about.get("license_name")) == fields
