"""`state.json` of a device: which releases are installed, good and pending."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rsd_edge import disk
from rsd_edge.errors import EdgeError

STATE = "state.json"


@dataclass
class State:
    """The content of `state.json`."""

    name: str | None = None
    """Name of every bundle here; a device holds releases of one name only."""
    highest: int = 0
    """The newest release ever installed here, even if it was removed since."""
    highest_sha256: str = ""
    """Digest of its manifest: the same bundle may be installed again."""
    installed: dict[str, str] = field(default_factory=dict)
    """Id -> SHA-256 of the manifest, in the order of installation."""
    history: list[str] = field(default_factory=list)
    """Ids of the good releases, oldest first; the last one should be current."""
    pending: str | None = None
    """Id of the release on trial."""


def read_state(root: Path, *, new: Callable[[], bool]) -> State:
    """The state of a device's folder.

    Args:
        root: the folder.
        new: called if the file is absent; whether the folder is new, so that no state was lost.

    Raises:
        EdgeError: the file is damaged or lost.
    """
    path = root / STATE
    try:
        values = disk.read_json(path)
        if missing := vars(State()).keys() - values.keys():
            raise ValueError(f"no {min(missing)}")
        return State(**values)
    except FileNotFoundError as error:
        if new():
            return State()
        reason = str(error)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = str(error)
    raise EdgeError(f"expected {path} as it was written, found: {reason}; run `rsd-edge recover`")


def save_state(root: Path, state: State) -> None:
    disk.write_json(root / STATE, asdict(state))


def rebuilt_state(
    folders: Sequence[Path], events: Sequence[Mapping[str, Any]], current: Path | None, keys: Sequence[Path]
) -> State:
    """The state of a device whose `state.json` was lost, from its undamaged releases and its log.

    The log tells which releases were good, and the newest one ever installed.

    Args:
        folders: of the releases.
        events: `Events.all`.
        current: the folder that the link `current` names.
        keys: pinned public keys; if there are any, only releases that one of them has signed are kept.

    Raises:
        EdgeError: one of the key files holds no key.
    """
    from rsd_edge import bundle as bundles
    from rsd_edge import signature

    for key in keys:
        signature.public_key(key)  # a damaged key file must not cost a release
    state, whole = State(), {}
    for folder in folders:
        with contextlib.suppress(OSError, LookupError, ValueError, EdgeError):
            content = disk.read(folder / bundles.MANIFEST, bundles.MAX_MANIFEST)
            manifest, digest = json.loads(content), bundles.digest_of(content)
            bundles.check_installed(folder, digest)
            if keys:
                files = signature.signed_files(disk.read(folder / signature.NAME, signature.MAX_BYTES), keys)
                if files[bundles.MANIFEST] != digest:
                    continue
            if folder.name == f"{manifest['name']}-{manifest['release']}":
                whole[int(manifest["release"])] = (folder.name, digest)
                state.name = manifest["name"]
    state.installed = dict(whole[release] for release in sorted(whole))
    newest = {release: digest for release, (_, digest) in whole.items()}
    good: list[str] = []
    for event in events:
        release = event.get("release", "")
        if event.get("event") == "installed":
            name, _, number = release.rpartition("-")
            newest.setdefault(int(number), event.get("manifest_sha256", ""))
            state.name = state.name or name
        elif event.get("event") == "good":  # a second time after a rollback: later ones are no longer good
            good = [*good[: good.index(release)], release] if release in good else [*good, release]
    if newest:
        state.highest = max(newest)
        state.highest_sha256 = newest[state.highest]
    fallback = [current.name] if current else []
    state.history = [release for release in good or fallback if release in state.installed]
    return state
