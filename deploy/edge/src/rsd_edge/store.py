"""What lies on the disk of a device: its releases, and which of them is current.

    ROOT/releases/NAME-RELEASE/   an installed release, as it was signed
    ROOT/engines/NAME-RELEASE/    its TensorRT engines, by precision and runtime
    ROOT/choices/NAME-RELEASE.json  which precision, runtime and threads serve it here, and why
    ROOT/current                  a link to the release that is served
    ROOT/state.json               the installed, the good and the pending releases, and the newest one of each key
    ROOT/state.copy.json          the same, to rebuild it
    ROOT/events.jsonl             the log, newest line last; only told, never believed

Every change is one rename: of a folder, of the link or of `state.json`. `state.json` decides which releases are
installed. The good release is the last one of its `history`; a release on trial is its `pending`. So `recover` can go
back to the good release at any moment. Folders that `state.json` does not name are removed.
"""

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rsd_edge import choices, disk
from rsd_edge.errors import EdgeError
from rsd_edge.events import Events
from rsd_edge.records import State
from rsd_edge.state import STATE, read_state, save_state


class Store:
    """The releases of one device, as they lie; see the module's docstring."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "releases"
        self.events = Events(root)

    def current(self) -> Path | None:
        """The folder that the link `current` names, whether or not it exists; one system call."""
        try:
            return self.root / os.readlink(self.root / "current")
        except FileNotFoundError:
            return None

    def to_serve(self) -> Path | None:
        """The folder that a server should serve; reads only.

        This is `current`, except after a power cut and before `recover`: if a release is on trial and no command
        watches it, this is the last good release.
        """
        with contextlib.suppress(EdgeError, OSError):  # `recover` repairs a damaged state
            state = self._state()
            # Read twice, because a command may just have ended.
            if state.pending and not disk.is_attended(self.folder) and self._state() == state:
                return self.folder / state.history[-1] if state.history else None
        return self.current()

    def whole_or_earlier(self, folder: Path, keys: Sequence[Path]) -> Path | None:
        """`folder` if it is whole, or else the last good release that is whole and signed by a pinned key; reads only.

        So a device serves on although its current release is damaged and its disk is full or read-only.
        """
        if self.is_whole(folder):
            return folder
        with contextlib.suppress(EdgeError, OSError):
            for release in reversed(self._state().history):
                if self._may_serve(self.folder / release, keys):
                    return self.folder / release
        return None

    def is_whole(self, folder: Path) -> bool:
        """Whether a release is as it was installed, or if the state is lost, as its own manifest says; reads only."""
        from rsd_edge import bundle as bundles

        try:
            digest = bundles.manifest_digest(folder)
            with contextlib.suppress(EdgeError):
                digest = self._state().installed.get(folder.name, digest)
            bundles.check_installed(folder, digest)
        except (OSError, EdgeError):
            return False
        return True

    def status(self) -> dict[str, Any]:
        """The current, pending, good and installed releases, and the last events; reads only."""
        state, current = self._state(), self.current()
        choice = choices.read(self.root, current.name, state.installed.get(current.name)) if current else None
        return {
            "current": current.name if current else None,
            "manifest_sha256": state.installed.get(current.name) if current else None,
            "choice": asdict(choice) if choice else None,
            "pending": state.pending,
            "good": state.history,
            "installed": list(state.installed),
            "highest": {key: highest.release for key, highest in state.highest.items()},
            "events": self.events.all()[-10:],
        }

    def _may_serve(self, folder: Path, keys: Sequence[Path]) -> bool:
        from rsd_edge import admission

        with contextlib.suppress(EdgeError):
            admission.check_signed(folder, keys)
            return self.is_whole(folder)
        return False

    def _point(self, state: State) -> None:
        """Point `current` at the last good release; remove the link if there is none."""
        current = self.current()
        if state.history:
            if current != self.folder / state.history[-1]:
                disk.link(self.root / "current", f"releases/{state.history[-1]}")
        elif current:
            (self.root / "current").unlink()
            disk.sync(self.root)

    def _take_back(self, state: State, reason: str) -> None:
        self.events.add("taken back", release=state.pending, reason=reason)
        self._point(state)
        state.pending = None
        save_state(self.root, state)

    def _sweep(self, state: State, keep: int) -> None:
        """Keep the last good releases and the one installed last; remove the others, and what a kill left behind."""
        names = {*state.history[-max(keep, 1) :], *list(state.installed)[-1:]}
        if state.installed.keys() != names:
            state.installed = {name: digest for name, digest in state.installed.items() if name in names}
            state.history = [name for name in state.history if name in names]
            save_state(self.root, state)
        self._remove_all_but(names)

    def _remove_all_but(self, names: Collection[str]) -> None:
        for folder in (self.folder, self.root / "engines", self.root / choices.FOLDER):
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.name.removesuffix(".json") not in names:
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    else:
                        path.unlink()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[State]:
        """The state, for a command that changes it; a trial that a killed command left is taken back first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            if not stack.enter_context(disk.locked(self.root / ".lock")):
                raise EdgeError("expected no other command that changes releases here, found one; wait for it")
            stack.enter_context(disk.attended(self.folder))
            state = self._state()
            if not (self.root / STATE).exists():
                save_state(self.root, state)  # from now on, a missing file is a lost file
            if state.pending:
                self._take_back(state, "was not committed")
            yield state

    def _state(self) -> State:
        return read_state(self.root, new=lambda: self.current() is None and not self._folders())

    def _folders(self) -> list[Path]:
        """Of releases; a folder that is being unpacked or removed has a name that starts with a dot."""
        return [path for path in sorted(self.folder.glob("*")) if not path.name.startswith(".")]
