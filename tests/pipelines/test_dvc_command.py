"""What DVC and a stage said becomes one sentence."""

from pathlib import Path

import pytest

from pipelines.dvc_command import reason, run_dvc
from tests.pipelines.conftest import ToyRepo

FULL = """
from errno import ENOSPC
from dvc_objects.fs.local import FsspecLocalFileSystem as Local

def put_file(self, source, target, *_, **__):
    raise OSError(ENOSPC, "No space left on device", source, None, target)

Local.put_file = Local.cp_file = put_file
"""
"""For Python to import when it starts: nothing is copied, as on a full disk."""


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


def test_an_output_without_room_is_a_failure(dvc_repo: ToyRepo, tmp_path: Path) -> None:
    (dvc_repo.path / "dvc.yaml").write_text("stages: {two: {cmd: mkdir d; touch d/a; echo 1 > d/b, outs: [d]}}")
    dvc_repo.dvc("config", "cache.type", "copy")
    (tmp_path / "sitecustomize.py").write_text(FULL)

    ended = run_dvc(["repro", "two"], dvc_repo.path, variables={"PYTHONPATH": str(tmp_path)})
    assert ended.status == 1
    assert reason(ended.lines).startswith("expected DVC to keep all that the stage wrote, found no way to store '")
    assert "No space left on device" in reason(ended.lines)
    assert run_dvc(["repro", "two"], dvc_repo.path).status == 0
    dvc_repo.dvc("status", "two")


def test_a_flow_shows_no_tips(dvc_repo: ToyRepo) -> None:
    lines: list[str] = []

    run_dvc(["repro", "prepare"], dvc_repo.path, say=lines.append)
    assert lines == ["Running stage 'prepare':", "> python work.py prepare.json", *lines[2:]]
    assert set(lines[2:]) == {"Generating lock file 'dvc.lock'", "Updating lock file 'dvc.lock'"}
