"""The log of the releases of a device: `events.jsonl`, newest line last."""

import contextlib
import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 20
"""Of one file; a full one is kept until the next one is full."""
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
        """All events that the log still holds, oldest first."""
        events = []
        for name in (OLDER, NAME):
            with contextlib.suppress(FileNotFoundError), (self.root / name).open() as file:
                for line in file:
                    with contextlib.suppress(ValueError):  # a power cut can leave half a line
                        events.append(json.loads(line))
        return events
