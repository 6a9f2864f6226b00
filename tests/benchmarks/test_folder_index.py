import pytest

from benchmarks import folder_index
from rsd.machine.errors import UserError


def test_the_folder_it_makes_is_one_without_findings(tmp_path, capsys, monkeypatch):
    folder_index.make(tmp_path, 300, 16)
    monkeypatch.setattr(folder_index, "LARGEST", 1e9)
    folder_index.measure(tmp_path)
    assert capsys.readouterr().out.startswith("300 images in ")


def test_a_peak_above_the_limit_is_an_error(tmp_path, monkeypatch):
    folder_index.make(tmp_path, 300, 16)
    monkeypatch.setattr(folder_index, "LARGEST", 1.0)
    with pytest.raises(UserError, match="expected a peak below 1 MB"):
        folder_index.measure(tmp_path)
