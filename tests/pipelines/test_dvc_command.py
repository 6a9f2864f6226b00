"""What DVC and a stage said becomes one sentence."""

import pytest

from pipelines.dvc_command import reason


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["> python x", "error: no", "ERROR: failed to reproduce 'x'"], "no"),
        (["error: two problems:", "  - a", "  - b", "ERROR: failed"], "two problems:\n  - a\n  - b"),
        (["Running stage 'x':", "> x", "ValueError: 3", "ERROR: failed"], "ValueError: 3 - failed"),
        (["ERROR: dvc.yaml is broken"], "dvc.yaml is broken"),
        ([], "it printed nothing"),
    ],
)
def test_reason_is_stage_sentence_or_last_line(lines: list[str], sentence: str) -> None:
    assert reason(lines) == sentence
