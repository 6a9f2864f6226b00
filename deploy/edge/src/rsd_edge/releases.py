"""The releases on a device, and which of them is current.

    ROOT/releases/NAME-RELEASE/   what was installed, as it was signed
    ROOT/engines/NAME-RELEASE/    what TensorRT built for it here, by precision and runtime
    ROOT/current                  a link to the release that is served
    ROOT/state.json               what is installed, what was good, what is being tried
    ROOT/events.jsonl             what happened, with the newest line last

Every change is one rename: of a folder, of the link or of `state.json`. A release is installed when `state.json` says
so, and good when it is the last of `history` there; while another is tried, that is `pending`. So `recover` knows at
any moment what to go back to, and whatever nothing knows of is removed.
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
"""Bytes that stay free on the disk."""


class Releases:
    """The folder of releases of one device; see the module's docstring."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "releases"
        self.events = Events(root)

    def current(self) -> Path | None:
        """The folder that `current` points to, whether or not it is there; one system call."""
        try:
            return self.root / os.readlink(self.root / "current")
        except FileNotFoundError:
            return None

    def to_serve(self) -> Path | None:
        """The folder that a server is to serve; reads only.

        That is `current`, but for what is on trial while nobody watches it, after a power cut and before `recover`:
        then it is the last good release.
        """
        with contextlib.suppress(EdgeError, OSError):  # a damaged state is what `recover` is for
            state = self._state()
            # The second look tells a command that has just ended from one that was cut off.
            if state.pending and not disk.is_attended(self.folder) and self._state() == state:
                return self.folder / state.history[-1] if state.history else None
        return self.current()

    def install(
        self, source: Path, keys: list[Path], *, allow_downgrade: bool = False, keep: int = 3
    ) -> tuple[str, bool]:
        """Check a bundle, copy it, and let the runtime build its engine; nothing that is served changes.

        Args:
            source: its folder, or a tar file of it.
            keys: pinned public keys.
            allow_downgrade: take an older release than the newest ever installed here, and log it.
            keep: good releases to keep; older ones are removed.

        Returns:
            The id, and whether it is new here: the very same bundle may be installed again.

        Raises:
            EdgeError: the bundle is refused; nothing has changed.
        """
        from rsd_edge import bundle as bundles
        from rsd_edge.archive import unpacked

        with self._locked() as state, contextlib.ExitStack() as stack:
            try:
                if source.is_file():
                    self._check_room(2 * source.stat().st_size)  # unpacked, and copied once it is checked
                bundle = bundles.read(stack.enter_context(unpacked(source, self.folder / ".unpacked")), keys)
                bundles.check_device(bundle.manifest, free=bundles.free_memory())
                known = state.installed.get(bundle.id)
                if known == bundle.files[bundles.MANIFEST] and self._is_whole(bundle.id, known):
                    bundles.take(bundle)
                    engines.prepare(self.folder / bundle.id, self.events.add)
                    return bundle.id, False
                self._check_newer(state, bundle, known, allow_downgrade)
                self._check_room(bundle.bytes)
                arriving = self.folder / f".{bundle.id}.arriving"
                if arriving.exists():
                    shutil.rmtree(arriving)
                arriving.mkdir()
                try:
                    bundles.take(bundle, arriving)
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
            state.installed.pop(bundle.id, None)  # it comes last now
            state.installed[bundle.id] = bundle.files[bundles.MANIFEST]
            state.name = bundle.manifest["name"]
            if release >= state.highest:
                state.highest, state.highest_sha256 = release, bundle.files[bundles.MANIFEST]
            save_state(self.root, state)
            self.events.add("installed", release=bundle.id, manifest_sha256=bundle.files[bundles.MANIFEST])
            self._sweep(state, keep)
            engines.prepare(self.folder / bundle.id, self.events.add)
            return bundle.id, True

    def activate(
        self,
        release: str | None = None,
        *,
        window: float = 10.0,
        healthy: Callable[[str], bool] | None = None,
        keep: int = 3,
    ) -> str:
        """Test an installed release, make it current, watch it for a while, and commit to it; the id.

        Args:
            release: id; the one installed last if not given.
            window: seconds to watch.
            healthy: asked twice a second during the window with the id; see `health.ready_at`. It may say no until it
                first says yes, as a server needs a moment, and must say yes from then on. None: no window.
            keep: good releases to keep.

        Raises:
            EdgeError: it failed; what was current before is current again.
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

    def rollback(self, *, window: float = 10.0, healthy: Callable[[str], bool] | None = None, keep: int = 3) -> str:
        """Go back to the release that was good before the current one, tested and watched; its id.

        Its p99 is logged only: it was fast enough here, and now shares the device with the server that is left.
        """
        with self._locked() as state:
            if len(state.history) < 2:
                raise EdgeError("expected an earlier good release to go back to, found none; install another one")
            release = state.history[-2]
            self._try(state, release, window, healthy, in_time=False)
            state.history.pop()
            self._commit(state, release, keep)
            return release

    def recover(self, *, keys: Sequence[Path] = (), keep: int = 3) -> str | None:
        """Put things right after a crash or a power cut, at the next start; the id that is current, or None.

        What was tried and not committed is taken back. If the release that is to be current is not whole, the one
        before it becomes current. Does nothing while an `activate` is under way, which looks after itself.

        Args:
            keys: pinned public keys. Where `state.json` was lost, only releases that one of them has signed are kept;
                without any, all that are whole.
            keep: good releases to keep.

        Raises:
            EdgeError: one of the keys is none; nothing has changed.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with disk.locked(self.root / ".lock") as held:
            if not held:
                found = self.current()
                return found.name if found else None
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
        """Current, installed and good releases, and the last events; reads only."""
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

    # What the commands are made of.

    def _try(
        self, state: State, release: str, window: float, healthy: Callable[[str], bool] | None, *, in_time: bool = True
    ) -> None:
        """Make `release` current on trial; whatever goes wrong, the good one is current again."""
        from rsd_edge import bundle as bundles
        from rsd_edge.selftest import self_test

        if release not in state.installed:
            raise EdgeError(
                f"expected a release out of {', '.join(state.installed)}, found {release}; install it first"
            )
        try:
            bundles.check_installed(self.folder / release, state.installed[release])
            engines.prepare(self.folder / release, self.events.add)
            self.events.add("tested", release=release, **self_test(self.folder / release, in_time=in_time))
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
        """Point `current` at the last good release; at nothing if there is none."""
        found = self.current()
        if state.history:
            if found is None or found != self.folder / state.history[-1]:
                disk.link(self.root / "current", f"releases/{state.history[-1]}")
        elif found is not None:
            (self.root / "current").unlink()
            disk.sync(self.root)

    def _check_newer(self, state: State, bundle: Any, known: str | None, allow_downgrade: bool) -> None:
        name, release, digest = bundle.manifest["name"], bundle.manifest["release"], bundle.files["manifest.json"]
        if state.name not in (None, name):
            raise EdgeError(f"expected a bundle named {state.name}, found {name}; give it a folder of its own (--root)")
        if known not in (None, digest) or (release == state.highest and digest != state.highest_sha256):
            raise EdgeError(f"expected a new release number, found that of another {bundle.id}; raise the number")
        if release < state.highest and not known and not allow_downgrade:
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
        """Remove what is neither among the last good releases nor installed last, and what a kill has left."""
        last = list(state.installed)[-1:]
        kept = [*state.history[-max(keep, 1) :], *last]
        if state.installed.keys() != {*kept}:
            state.installed = {name: value for name, value in state.installed.items() if name in kept}
            state.history = [name for name in state.history if name in kept]
            save_state(self.root, state)
        for folder in (self.folder, self.root / "engines"):
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.name not in kept:
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    else:
                        path.unlink()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[State]:
        """The state, for a command that changes it; what a killed one has left on trial is taken back first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            if not stack.enter_context(disk.locked(self.root / ".lock")):
                raise EdgeError("expected to be the only one who changes releases here, found another; wait for it")
            stack.enter_context(disk.attended(self.folder))
            state = self._state()
            if not (self.root / STATE).exists():
                save_state(self.root, state)  # before there is a release: from now on a missing file is a lost one
            if state.pending:
                self._take_back(state, "was not committed")
            yield state

    def _state(self) -> State:
        return read_state(self.root, new=lambda: self.current() is None and not self._folders())

    def _folders(self) -> list[Path]:
        """Of releases; what is being unpacked or removed has a name that starts with a point."""
        return [path for path in sorted(self.folder.glob("*")) if not path.name.startswith(".")]
