import pytest
import typer

from rsd.cli.options import duration


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("0.5m", 30)])
def test_durations_are_read_as_people_write_them(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-1s", "0", "nan", "inf", "1h", "1e9m"])
def test_other_text_is_refused(text):
    with pytest.raises(typer.BadParameter, match="expected a duration"):
        duration(text)
