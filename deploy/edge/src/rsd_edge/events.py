"""The log of what happened to the releases of a device: `events.jsonl`, with the newest line last."""

import contextlib
import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 20
"""Of a file; the one before it is kept too."""
NAME, OLDER = "events.jsonl", "events.old.jsonl"


class Events:
    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, event: str, **facts: Any) -> None:
        path = self.root / NAME
        if path.exists() and path.stat().st_size > MAX_BYTES:
            os.replace(path, self.root / OLDER)
        line = {"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), "event": event, **facts}
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def all(self) -> list[dict[str, Any]]:
        """All that the log still has, oldest first."""
        events = []
        for name in (OLDER, NAME):
            with contextlib.suppress(FileNotFoundError), (self.root / name).open() as file:
                for line in file:
                    with contextlib.suppress(ValueError):  # a line that the power was cut in
                        events.append(json.loads(line))
        return events
