"""What `state.json` of a device says of its releases."""

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
    """`state.json`."""

    name: str | None = None
    """Of every bundle here: releases of different names have nothing to do with each other."""
    highest: int = 0
    """The newest release ever installed here, whether or not it still is."""
    highest_sha256: str = ""
    """Of its manifest: the very same may be installed again."""
    installed: dict[str, str] = field(default_factory=dict)
    """Id -> SHA-256 of its manifest, in the order of installation."""
    history: list[str] = field(default_factory=list)
    """Ids that were found good here, in that order; the last one is to be current."""
    pending: str | None = None
    """The id that is current on trial."""


def read_state(root: Path, *, new: Callable[[], bool]) -> State:
    """The state of a device's folder.

    Args:
        root: the folder.
        new: asked where there is no state: whether there is nothing else either.

    Raises:
        EdgeError: it is not as it was written, or lost.
    """
    path = root / STATE
    try:
        found = disk.read_json(path)
        if missing := vars(State()).keys() - found.keys():
            raise ValueError(f"nothing of {min(missing)}")
        return State(**found)
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
    """A state from what is there, where `state.json` was lost: every release that is whole, and what the log says.

    That has which were good, and the newest one ever installed, also if it was removed since.

    Args:
        folders: of releases.
        events: `Events.all`.
        current: the folder that `current` points to.
        keys: pinned public keys; if there are any, only releases that one of them has signed are kept.

    Raises:
        EdgeError: one of the keys is none.
    """
    from rsd_edge import bundle as bundles
    from rsd_edge import signature

    for key in keys:
        signature.public_key(key)  # one that is none must not cost a release
    state, whole = State(), {}
    for folder in folders:
        with contextlib.suppress(OSError, LookupError, ValueError, EdgeError):
            content = disk.read(folder / bundles.MANIFEST, bundles.MAX_MANIFEST)
            manifest, digest = json.loads(content), bundles.digest_of(content)
            bundles.check_installed(folder, digest)
            if keys:
                signed = signature.signed_files(disk.read(folder / signature.NAME, signature.MAX_BYTES), keys)
                if signed[bundles.MANIFEST] != digest:
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
        elif event.get("event") == "good":  # again: what came after it was left
            good = [*good[: good.index(release)], release] if release in good else [*good, release]
    if newest:
        state.highest = max(newest)
        state.highest_sha256 = newest[state.highest]
    served = [current.name] if current else []
    state.history = [release for release in good or served if release in state.installed]
    return state
