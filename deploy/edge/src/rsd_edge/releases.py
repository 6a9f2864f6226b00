"""The commands that change the releases of a device: install, activate, rollback, recover."""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rsd_edge import choices, disk, engines
from rsd_edge.choices import Choice, Pins
from rsd_edge.errors import EdgeError
from rsd_edge.health import watch
from rsd_edge.records import Highest, State
from rsd_edge.state import STATE, mend_copy, raise_highest, rebuilt_state, save_state
from rsd_edge.store import Store

RESERVE = 64 << 20
"""Bytes of the disk that stay free."""
AGAIN = 40.0
"""Seconds for `recover` to choose again, well below those that systemd lets a service start."""
Healthy = Callable[[str], bool]
"""Whether a release, given by its id, is served."""


class Releases(Store):
    """The commands, on one device."""

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
                id_, manifest_sha256 = bundle.manifest.id, bundle.files[bundles.MANIFEST].sha256
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
        """Test an installed release, choose how it runs, make it current, watch it, record it as good, return its id.

        Args:
            keys: pinned public keys; one of them must have signed the release.
            release: its id; by default the one installed last.
            window: seconds to watch it.
            healthy: called with the id twice a second during the window, see `health.ready_at`. It may return False
                until it first returns True, and must return True from then on. None skips the window.
            keep: number of good releases to keep.
            pins: what of its way to run is fixed.

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

    def _check_room(self, size: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < size + RESERVE:
            raise EdgeError(f"expected {size + RESERVE} free bytes in {self.folder}, found {free}; free some space")
