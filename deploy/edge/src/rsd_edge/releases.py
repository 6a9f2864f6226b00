"""The releases on a device, and which of them is current.

    ROOT/releases/NAME-RELEASE/   an installed release, as it was signed
    ROOT/engines/NAME-RELEASE/    its TensorRT engines, by precision and runtime
    ROOT/current                  a link to the release that is served
    ROOT/state.json               the installed, the good and the pending releases
    ROOT/events.jsonl             the log, newest line last

Every change is one rename: of a folder, of the link or of `state.json`. `state.json` decides which releases are
installed. The good release is the last one of its `history`; a release on trial is its `pending`. So `recover` can go
back to the good release at any moment. Folders that `state.json` does not name are removed.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rsd_edge import disk, engines
from rsd_edge.errors import EdgeError
from rsd_edge.events import Events
from rsd_edge.health import watch
from rsd_edge.state import STATE, State, read_state, rebuilt_state, save_state

RESERVE = 64 << 20
"""Bytes of the disk that stay free."""
Healthy = Callable[[str], bool]
"""Whether a release, given by its id, is served."""


class Releases:
    """The releases of one device; see the module's docstring."""

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

    def install(
        self, source: Path, keys: list[Path], *, allow_downgrade: bool = False, keep: int = 3
    ) -> tuple[str, bool]:
        """Check a bundle, copy it, and let TensorRT build its engines; what is served does not change.

        Args:
            source: folder of the bundle, or a tar file of it.
            keys: pinned public keys.
            allow_downgrade: install a release older than the newest one ever installed here, and log it.
            keep: number of good releases to keep; older ones are removed.

        Returns:
            The id, and whether the release is new here: the same bundle may be installed again.

        Raises:
            EdgeError: the bundle is refused; nothing has changed.
        """
        from rsd_edge import bundle as bundles
        from rsd_edge.archive import unpacked

        with self._locked() as state, contextlib.ExitStack() as stack:
            try:
                if source.is_file():
                    self._check_room(2 * source.stat().st_size)  # once unpacked, once installed
                bundle = bundles.read(stack.enter_context(unpacked(source, self.folder / ".unpacked")), keys)
                bundles.check_device(bundle.manifest, free=bundles.free_memory())
                manifest_sha256, previous = bundle.files[bundles.MANIFEST], state.installed.get(bundle.id)
                if previous == manifest_sha256 and self._is_whole(bundle.id, previous):
                    bundles.check_files(bundle)
                    engines.prepare(self.folder / bundle.id, self.events.add)
                    return bundle.id, False
                self._check_newer(state, bundle, previous, allow_downgrade)
                self._check_room(bundle.bytes)
                arriving = self.folder / f".{bundle.id}.arriving"
                shutil.rmtree(arriving, ignore_errors=True)
                arriving.mkdir()
                try:
                    bundles.check_files(bundle, arriving)
                except BaseException:
                    shutil.rmtree(arriving)
                    raise
                disk.remove(self.folder / bundle.id)
                os.replace(arriving, self.folder / bundle.id)
                disk.sync(self.folder)
            except EdgeError as error:
                self.events.add("refused", source=source.name, reason=str(error))
                raise
            release = bundle.manifest["release"]
            if release < state.highest:
                self.events.add("downgrade", release=bundle.id, highest=state.highest)
            state.installed.pop(bundle.id, None)  # so that it comes last
            state.installed[bundle.id] = manifest_sha256
            state.name = bundle.manifest["name"]
            if release >= state.highest:
                state.highest, state.highest_sha256 = release, manifest_sha256
            save_state(self.root, state)
            self.events.add("installed", release=bundle.id, manifest_sha256=manifest_sha256)
            self._sweep(state, keep)
            engines.prepare(self.folder / bundle.id, self.events.add)
            return bundle.id, True

    def activate(
        self, release: str | None = None, *, window: float = 10.0, healthy: Healthy | None = None, keep: int = 3
    ) -> str:
        """Test an installed release, make it current, watch it, and record it as good.

        Args:
            release: its id; by default the one installed last.
            window: seconds to watch it.
            healthy: called with the id twice a second during the window, see `health.ready_at`. It may return False
                until it first returns True, and must return True from then on. None skips the window.
            keep: number of good releases to keep.

        Returns:
            The id.

        Raises:
            EdgeError: the release failed; what was current before is current again.
        """
        with self._locked() as state:
            if not state.installed:
                raise EdgeError("expected an installed release to activate, found none; run `rsd-edge install` first")
            release = release or next(reversed(state.installed))
            self._try(state, release, window, healthy)
            if release in state.history:
                state.history.remove(release)
            state.history.append(release)
            self._commit(state, release, keep)
            return release

    def rollback(self, *, window: float = 10.0, healthy: Healthy | None = None, keep: int = 3) -> str:
        """Go back to the good release before the current one, with the same tests; returns its id.

        Its p99 is logged but not checked: it was fast enough before, and now a server uses the device too.
        """
        with self._locked() as state:
            if len(state.history) < 2:
                raise EdgeError("expected an earlier good release to go back to, found none; install another one")
            release = state.history[-2]
            self._try(state, release, window, healthy, check_p99=False)
            state.history.pop()
            self._commit(state, release, keep)
            return release

    def recover(self, *, keys: Sequence[Path] = (), keep: int = 3) -> str | None:
        """Repair the releases after a crash or a power cut; returns the id that is current, or None.

        A release that was still on trial is taken back. If the good release is damaged, the one before it becomes
        current. Does nothing while another command changes releases: that command takes back its own trial.

        Args:
            keys: pinned public keys. If `state.json` was lost, only releases that one of them has signed are kept;
                without keys, every undamaged release is kept.
            keep: number of good releases to keep.

        Raises:
            EdgeError: one of the key files holds no key; nothing has changed.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with disk.locked(self.root / ".lock") as held:
            if not held:
                current = self.current()
                return current.name if current else None
            try:
                state = self._state()
            except EdgeError as error:
                state = rebuilt_state(self._folders(), self.events.all(), self.current(), keys)
                self.events.add("state rebuilt", reason=str(error))
                save_state(self.root, state)
            if state.pending:
                self._take_back(state, "was not committed")
            while state.history and not self._is_whole(state.history[-1], state.installed[state.history[-1]]):
                damaged = state.history.pop()
                state.installed.pop(damaged)
                save_state(self.root, state)
                self.events.add("damaged", release=damaged)
            self._point(state)
            self._sweep(state, keep)
            return state.history[-1] if state.history else None

    def status(self) -> dict[str, Any]:
        """The current, pending, good and installed releases, and the last events; reads only."""
        state, current = self._state(), self.current()
        return {
            "current": current.name if current else None,
            "manifest_sha256": state.installed.get(current.name) if current else None,
            "pending": state.pending,
            "good": state.history,
            "installed": list(state.installed),
            "highest": state.highest,
            "events": self.events.all()[-10:],
        }

    # Steps of the commands.

    def _try(
        self, state: State, release: str, window: float, healthy: Healthy | None, *, check_p99: bool = True
    ) -> None:
        """Make `release` current on trial; if anything fails, the good release is current again."""
        from rsd_edge import bundle as bundles
        from rsd_edge.selftest import self_test

        if release not in state.installed:
            raise EdgeError(f"expected a release out of {', '.join(state.installed)}, found {release}; install it")
        try:
            bundles.check_installed(self.folder / release, state.installed[release])
            engines.prepare(self.folder / release, self.events.add)
            self.events.add("tested", release=release, **self_test(self.folder / release, check_p99=check_p99))
        except EdgeError as error:
            self.events.add("failed", release=release, reason=str(error))
            raise
        state.pending = release
        save_state(self.root, state)
        try:
            disk.link(self.root / "current", f"releases/{release}")
            self.events.add("on trial", release=release)
            if healthy:
                watch(release, window, healthy)
        except BaseException as error:  # also when interrupted
            self._take_back(state, str(error) or type(error).__name__)
            raise

    def _commit(self, state: State, release: str, keep: int) -> None:
        state.pending = None
        save_state(self.root, state)
        self.events.add("good", release=release)
        self._sweep(state, keep)

    def _take_back(self, state: State, reason: str) -> None:
        self.events.add("taken back", release=state.pending, reason=reason)
        self._point(state)
        state.pending = None
        save_state(self.root, state)

    def _point(self, state: State) -> None:
        """Point `current` at the last good release; remove the link if there is none."""
        current = self.current()
        if state.history:
            if current != self.folder / state.history[-1]:
                disk.link(self.root / "current", f"releases/{state.history[-1]}")
        elif current:
            (self.root / "current").unlink()
            disk.sync(self.root)

    def _check_newer(self, state: State, bundle: Any, previous: str | None, allow_downgrade: bool) -> None:
        name, release, digest = bundle.manifest["name"], bundle.manifest["release"], bundle.files["manifest.json"]
        if state.name not in (None, name):
            raise EdgeError(f"expected a bundle named {state.name}, found {name}; give it a folder of its own (--root)")
        if previous not in (None, digest) or (release == state.highest and digest != state.highest_sha256):
            raise EdgeError(f"expected a new release number, found that of another {bundle.id}; raise the number")
        if release < state.highest and not previous and not allow_downgrade:
            raise EdgeError(
                f"expected a release newer than {state.highest}, the newest ever installed here, found {release}; "
                "make a newer one, or allow this one with --allow-downgrade"
            )

    def _is_whole(self, release: str, manifest_sha256: str) -> bool:
        from rsd_edge import bundle as bundles

        try:
            bundles.check_installed(self.folder / release, manifest_sha256)
        except EdgeError:
            return False
        return True

    def _check_room(self, size: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < size + RESERVE:
            raise EdgeError(f"expected {size + RESERVE} free bytes in {self.folder}, found {free}; free some space")

    def _sweep(self, state: State, keep: int) -> None:
        """Keep the last good releases and the one installed last; remove the others, and what a kill left behind."""
        names = {*state.history[-max(keep, 1) :], *list(state.installed)[-1:]}
        if state.installed.keys() != names:
            state.installed = {name: digest for name, digest in state.installed.items() if name in names}
            state.history = [name for name in state.history if name in names]
            save_state(self.root, state)
        for folder in (self.folder, self.root / "engines"):
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.name not in names:
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
