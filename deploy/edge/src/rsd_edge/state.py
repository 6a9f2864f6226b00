"""`state.json` of a device: which releases are installed, good and pending, and which is the newest of each key.

It lies on the disk twice. The copy serves only to rebuild a state that was lost or damaged.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rsd_edge import disk
from rsd_edge.errors import EdgeError
from rsd_edge.records import Highest, Manifest, Sealed, State, load, seal

STATE, COPY = "state.json", "state.copy.json"
MAX_BYTES = 1 << 22


def read_state(root: Path, *, new: Callable[[], bool]) -> State:
    """The state of a device's folder; if the file is absent, `new` says whether the folder is, so that none was lost.

    Raises:
        EdgeError: the file is damaged or lost.
    """
    path = root / STATE
    try:
        return _read(path)
    except FileNotFoundError as error:
        if new() and not (root / COPY).exists():
            return State()
        reason = str(error)
    except (OSError, ValueError, EdgeError) as error:
        reason = str(error)
    raise EdgeError(f"expected {path} as it was written, found: {reason}; run `rsd-edge recover`")


def save_state(root: Path, state: State) -> None:
    """Replace the state, then its copy."""
    sealed = {"sha256": seal(state), "state": asdict(state)}
    for name in (STATE, COPY):
        disk.write_json(root / name, sealed)


def mend_copy(root: Path) -> None:
    """Make the copy of a readable state equal to it; writes nothing if it is."""
    content = disk.read(root / STATE, MAX_BYTES)
    try:
        same = disk.read(root / COPY, MAX_BYTES) == content
    except (OSError, EdgeError):
        same = False
    if not same:
        disk.write(root / COPY, content)


def rebuilt_state(root: Path, folders: Sequence[Path], current: Path | None, keys: Sequence[Path]) -> State:
    """The state of a device whose `state.json` was lost, from its releases on the disk and the copy.

    A release is kept if its files are whole and a pinned key has signed it, the copy names it, or it is current. If the
    copy is lost too, the releases before the current one count as good.

    Raises:
        EdgeError: there are no keys, or one of the key files holds none.
    """
    from rsd_edge import bundle as bundles
    from rsd_edge import signature

    pinned = signature.pinned_keys(keys)  # a damaged key file must not cost a release
    try:
        copy = _read(root / COPY)
    except (OSError, ValueError, EdgeError):
        copy = State()
    whole: list[tuple[Manifest, str]] = []
    highest = dict(copy.highest)
    for folder in folders:
        try:
            digest = bundles.manifest_digest(folder)
            bundles.check_installed(folder, digest)
            manifest = bundles.manifest_of(folder)
        except (OSError, EdgeError):
            continue
        try:
            key = bundles.signer(folder, digest, pinned)
            raise_highest(highest, key, Highest(manifest.release, digest))
        except (OSError, EdgeError):
            if folder != current and copy.installed.get(folder.name) != digest:
                continue
        if folder.name == manifest.id:
            whole.append((manifest, digest))
    names = [copy.name, *(manifest.name for manifest, _ in whole if current and manifest.id == current.name)]
    name = next(filter(None, [*names, *(manifest.name for manifest, _ in whole)]), None)
    order = {release: number for number, release in enumerate(copy.installed, start=-len(copy.installed))}
    whole = [(manifest, digest) for manifest, digest in whole if manifest.name == name]
    whole.sort(key=lambda one: order.get(one[0].id, one[0].release))
    installed = {manifest.id: digest for manifest, digest in whole}
    history = [release for release in copy.history if release in installed]
    if not history and current and current.name in installed:
        releases = {manifest.id: manifest.release for manifest, _ in whole}
        history = sorted((id_ for id_ in releases if releases[id_] <= releases[current.name]), key=releases.__getitem__)
    return State(name=name, highest=highest, installed=installed, history=history)


def raise_highest(highest: dict[str, Highest], key: str, newest: Highest) -> bool:
    """Note that a key has signed a release for this device; whether it is newer than any that it signed before."""
    if key in highest and newest.release <= highest[key].release:
        return False
    highest[key] = newest
    return True


def _read(path: Path) -> State:
    """Raises OSError, EdgeError, or ValueError if the content is not a sealed state."""
    sealed = load(Sealed, disk.read(path, MAX_BYTES))
    if sealed.sha256 != seal(sealed.state):
        raise ValueError("another content than its sha256 says")
    return sealed.state
