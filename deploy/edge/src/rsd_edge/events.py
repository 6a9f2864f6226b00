"""The log of the releases of a device: `events.jsonl`, newest line last."""

import contextlib
import json
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rsd_edge import disk
from rsd_edge.errors import EdgeError

MAX_BYTES = 1 << 20
"""Of one file; a full one is kept until the next one is full."""
MAX_TEXT = 1000
"""Characters of one text in an event."""
NAME, OLDER = "events.jsonl", "events.old.jsonl"


class Events:
    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, event: str, **facts: Any) -> None:
        """Append an event. A full or read-only disk keeps no command from its work: the event goes to stderr then."""
        path = self.root / NAME
        facts = {name: fact[:MAX_TEXT] if isinstance(fact, str) else fact for name, fact in facts.items()}
        line = json.dumps({"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), "event": event, **facts})
        try:
            if path.exists() and path.stat().st_size > MAX_BYTES:
                os.replace(path, self.root / OLDER)
            with path.open("a") as file:
                file.write(line + "\n")
        except OSError as error:
            print(f"warning: expected to write {path}, found: {error}; not logged: {line}", file=sys.stderr)

    def all(self) -> list[dict[str, Any]]:
        """All events that the log still holds, oldest first."""
        events = []
        for name in (OLDER, NAME):
            with contextlib.suppress(OSError, EdgeError):
                for line in disk.read(self.root / name, 2 * MAX_BYTES).splitlines():
                    with contextlib.suppress(ValueError, RecursionError):  # a power cut can leave half a line
                        event = json.loads(line)
                        if isinstance(event, dict) and isinstance(event.get("event"), str):
                            events.append(event)
        return events
