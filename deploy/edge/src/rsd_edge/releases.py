"""The releases on a device, and which of them is current.

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
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rsd_edge import choices, disk, engines
from rsd_edge.choices import Choice, Pins
from rsd_edge.errors import EdgeError
from rsd_edge.events import Events
from rsd_edge.health import watch
from rsd_edge.records import Highest, State
from rsd_edge.state import STATE, mend_copy, raise_highest, read_state, rebuilt_state, save_state

RESERVE = 64 << 20
"""Bytes of the disk that stay free."""
AGAIN = 40.0
"""Seconds for `recover` to choose again, well below those that systemd lets a service start."""
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

    def install(
        self, source: Path, keys: Sequence[Path], *, allow_downgrade: bool = False, keep: int = 3
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
        from rsd_edge import admission
        from rsd_edge import bundle as bundles
        from rsd_edge.archive import unpacked

        with self._locked() as state, contextlib.ExitStack() as stack:
            try:
                if source.is_file():
                    self._check_room(2 * source.stat().st_size)  # once unpacked, once installed
                bundle = bundles.read(stack.enter_context(unpacked(source, self.folder / ".unpacked")), keys)
                bundles.check_device(bundle.manifest, free=bundles.free_memory())
                id_, manifest_sha256 = bundle.manifest.id, bundle.files[bundles.MANIFEST]
                newest = Highest(bundle.manifest.release, manifest_sha256)
                limit = admission.newest_counted(state, keys)
                previous = state.installed.get(id_)
                if previous == manifest_sha256 and self.is_whole(self.folder / id_):
                    bundles.check_files(bundle)
                    admission.sign_again(self.folder / id_, bundle)
                    if raise_highest(state.highest, bundle.key, newest):
                        save_state(self.root, state)
                    engines.prepare(self.folder / id_, self.events.add)
                    return id_, False
                admission.check_newer(state, bundle, limit, allow_downgrade=allow_downgrade)
                self._check_room(bundle.bytes)
                arriving = self.folder / f".{id_}.arriving"
                shutil.rmtree(arriving, ignore_errors=True)
                arriving.mkdir()
                try:
                    bundles.check_files(bundle, arriving)
                except BaseException:
                    shutil.rmtree(arriving)
                    raise
                disk.remove(self.folder / id_)
                os.replace(arriving, self.folder / id_)
                disk.sync(self.folder)
            except EdgeError as error:
                self.events.add("refused", source=source.name, reason=str(error))
                raise
            if limit and newest.release < limit.release:
                self.events.add("downgrade", release=id_, highest=limit.release)
            state.installed.pop(id_, None)  # so that it comes last
            state.installed[id_] = manifest_sha256
            state.name = bundle.manifest.name
            raise_highest(state.highest, bundle.key, newest)
            save_state(self.root, state)
            self.events.add("installed", release=id_, manifest_sha256=manifest_sha256)
            self._sweep(state, keep)
            engines.prepare(self.folder / id_, self.events.add)
            return id_, True

    def activate(
        self,
        keys: Sequence[Path],
        release: str | None = None,
        *,
        window: float = 10.0,
        healthy: Healthy | None = None,
        keep: int = 3,
        pins: Pins = Pins(),  # noqa: B008
    ) -> str:
        """Test an installed release, choose how it runs, make it current, watch it, and record it as good.

        Args:
            keys: pinned public keys; one of them must have signed the release.
            release: its id; by default the one installed last.
            window: seconds to watch it.
            healthy: called with the id twice a second during the window, see `health.ready_at`. It may return False
                until it first returns True, and must return True from then on. None skips the window.
            keep: number of good releases to keep.
            pins: what of its way to run is fixed.

        Returns:
            The id.

        Raises:
            EdgeError: the release failed; what was current before is current again.
        """
        with self._locked() as state:
            if not state.installed:
                raise EdgeError("expected an installed release to activate, found none; run `rsd-edge install` first")
            release = release or next(reversed(state.installed))
            self._try(state, keys, release, window, healthy, pins=pins)
            if release in state.history:
                state.history.remove(release)
            state.history.append(release)
            self._commit(state, release, keep)
            return release

    def rollback(
        self, keys: Sequence[Path], *, window: float = 10.0, healthy: Healthy | None = None, keep: int = 3
    ) -> str:
        """Go back to the good release before the current one, with the same tests and pins; returns its id.

        Its p99 is logged but not checked: it was fast enough before, and now a server uses the device too.
        """
        with self._locked() as state:
            if len(state.history) < 2:
                raise EdgeError("expected an earlier good release to go back to, found none; install another one")
            release = state.history[-2]
            last = choices.read(self.root, release, state.installed[release])
            pins = last.pins if last else Pins()
            self._try(state, keys, release, window, healthy, check_p99=False, pins=pins)
            state.history.pop()
            self._commit(state, release, keep)
            return release

    def recover(self, keys: Sequence[Path]) -> str | None:
        """Repair the releases after a crash or a power cut; returns the id that is current, or None.

        A release that was still on trial is taken back. If the good release is damaged, the last one before it that is
        whole and signed by a pinned key becomes current. Does nothing while another command changes releases: that
        command takes back its own trial. Removes the releases that the state does not name; a lost state is rebuilt to
        name every whole release that a pinned key signed, that the copy names or that is current. Chooses again how the
        good release runs if runtimes or the CPU have changed, or the choice is lost. Writes nothing if nothing is to be
        repaired.

        Args:
            keys: pinned public keys. They are read only if a state is lost or a release damaged.

        Raises:
            EdgeError: there are no keys, or one of the files holds none; nothing has changed.
            OSError: the disk is full or read-only; `to_serve` and `whole_or_earlier` still tell what to serve.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with disk.locked(self.root / ".lock") as held:
            if not held:
                current = self.current()
                return current.name if current else None
            self._remove_all_but([path.name for path in self._folders()])  # makes room for what follows
            try:
                state = self._state()
            except EdgeError as error:
                state = rebuilt_state(self.root, self._folders(), self.current(), keys)
                self.events.add("state rebuilt", reason=str(error))
                save_state(self.root, state)
            if state.pending:
                self._take_back(state, "was not committed")
            if state.history and not self.is_whole(self.folder / state.history[-1]):
                self._fall_back(state, keys)
            self._point(state)
            if (self.root / STATE).exists():
                mend_copy(self.root)
            self._remove_all_but(state.installed)
            if not state.history:
                return None
            self._choose_again(state.history[-1], state.installed[state.history[-1]])
            return state.history[-1]

    def is_whole(self, folder: Path) -> bool:
        """Whether a release is as it was installed, or if the state is lost, as its own manifest says; reads only."""
        from rsd_edge import bundle as bundles

        try:
            digest = bundles.digest_of(disk.read(folder / bundles.MANIFEST, bundles.MAX_MANIFEST))
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

    # Steps of the commands.

    def _try(
        self,
        state: State,
        keys: Sequence[Path],
        release: str,
        window: float,
        healthy: Healthy | None,
        *,
        check_p99: bool = True,
        pins: Pins = Pins(),  # noqa: B008
    ) -> None:
        """Make `release` current on trial; if anything fails, the good release is current again."""
        from rsd_edge import admission, choosing
        from rsd_edge import bundle as bundles

        if release not in state.installed:
            raise EdgeError(f"expected a release out of {', '.join(state.installed)}, found {release}; install it")
        try:
            admission.check_signed(self.folder / release, keys)
            bundles.check_installed(self.folder / release, state.installed[release])
            engines.prepare(self.folder / release, self.events.add)
            choice = choosing.choose(self.folder / release, pins, self.events.add, check_p99=check_p99)
            self._log_choice(release, choice)
        except EdgeError as error:
            self.events.add("failed", release=release, reason=str(error))
            raise
        last = choices.read(self.root, release, state.installed[release])
        state.pending = release
        save_state(self.root, state)
        try:
            choices.save(self.root, release, choice)
            disk.link(self.root / "current", f"releases/{release}")
            self.events.add("on trial", release=release)
            if healthy:
                watch(release, window, healthy)
        except BaseException as error:  # also when interrupted
            self._take_back(state, str(error) or type(error).__name__)
            with contextlib.suppress(OSError):
                if last:  # it may be the good release, which was run in another way
                    choices.save(self.root, release, last)
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

    def _choose_again(self, release: str, manifest_sha256: str) -> None:
        """Choose how a release runs if that was on another CPU or with other runtimes, or is lost."""
        from rsd_edge import choosing

        last = choices.read(self.root, release, manifest_sha256)
        if last and last.fingerprint == choosing.fingerprint():
            return
        pins = last.pins if last else Pins()
        try:
            choice = choosing.choose(self.folder / release, pins, self.events.add, check_p99=None, seconds=AGAIN)
        except EdgeError as error:
            self.events.add("not chosen again", release=release, reason=str(error))
            print(f"warning: {release} runs as before, because no choice could be made: {error}", file=sys.stderr)
            return
        choices.save(self.root, release, choice)
        self._log_choice(release, choice)

    def _log_choice(self, release: str, choice: Choice) -> None:
        p50 = None if choice.p50_ms is None else round(choice.p50_ms, 4)
        facts = {"threads": choice.threads, "reason": choice.reason, "p50_ms": p50, "p99_ms": choice.p99_ms}
        self.events.add("chosen", release=release, pair=str(choice.pair), **facts)

    def _point(self, state: State) -> None:
        """Point `current` at the last good release; remove the link if there is none."""
        current = self.current()
        if state.history:
            if current != self.folder / state.history[-1]:
                disk.link(self.root / "current", f"releases/{state.history[-1]}")
        elif current:
            (self.root / "current").unlink()
            disk.sync(self.root)

    def _fall_back(self, state: State, keys: Sequence[Path]) -> None:
        """Replace a damaged good release by the last one before it that is whole and signed by a pinned key."""
        from rsd_edge import signature

        signature.pinned_keys(keys)  # a damaged key file must not cost a release
        damaged = state.history.pop()
        state.installed.pop(damaged)
        while state.history and not self._may_serve(self.folder / state.history[-1], keys):
            state.history.pop()
        save_state(self.root, state)
        self.events.add("damaged", release=damaged)

    def _may_serve(self, folder: Path, keys: Sequence[Path]) -> bool:
        from rsd_edge import admission

        with contextlib.suppress(EdgeError):
            admission.check_signed(folder, keys)
            return self.is_whole(folder)
        return False

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
