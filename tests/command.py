"""The command `rsd`, called in this process."""

import pytest

from rsd.cli.main import main


def rsd(*arguments: str) -> str:
    """How the command ends: empty on success, otherwise its sentence, or its status as text."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return str(end.value.code or "")
