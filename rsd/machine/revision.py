"""The commit that a record was made from."""

import subprocess


def git_revision() -> str | None:
    """The commit of the current folder, with the suffix `-dirty` if tracked files differ; None outside of git."""
    describe = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
