"""Which bundle may be installed on a device, and which installed release may be activated."""

import os
from collections.abc import Sequence
from pathlib import Path

from rsd_edge import bundle as bundles
from rsd_edge import disk, signature
from rsd_edge.errors import EdgeError
from rsd_edge.records import Highest, State


def newest_counted(state: State, keys: Sequence[Path]) -> Highest | None:
    """The newest release ever installed here that a pinned key has signed."""
    counted = [state.highest[key] for key in signature.pinned_keys(keys) if key in state.highest]
    return max(counted, key=lambda highest: highest.release, default=None)


def check_newer(state: State, bundle: bundles.Bundle, newest: Highest | None, *, allow_downgrade: bool) -> None:
    """Check the name and the number of a bundle against what is or was installed here, `newest_counted` too.

    Raises:
        EdgeError: it is of another name, reuses a number, or is older although `allow_downgrade` is not set.
    """
    manifest, digest = bundle.manifest, bundle.files[bundles.MANIFEST].sha256
    previous = state.installed.get(manifest.id)
    if state.name not in (None, manifest.name):
        raise EdgeError(
            f"expected a bundle named {state.name}, found {manifest.name}; give it a folder of its own (--root)"
        )
    reused = newest and manifest.release == newest.release and digest != newest.manifest_sha256
    if previous not in (None, digest) or reused:
        raise EdgeError(f"expected a new release number, found that of another {manifest.id}; raise the number")
    if newest and manifest.release < newest.release and not previous and not allow_downgrade:
        raise EdgeError(
            f"expected a release newer than {newest.release}, the newest ever installed here, found "
            f"{manifest.release}; make a newer one, or allow this one with --allow-downgrade"
        )


def check_signed(folder: Path, keys: Sequence[Path]) -> None:
    """EdgeError if no pinned key has signed an installed release, such as after its key was removed from them."""
    pinned = signature.pinned_keys(keys)
    try:
        bundles.signer(folder, bundles.manifest_digest(folder), pinned)
    except OSError as error:
        raise EdgeError(f"expected release {folder.name} whole, found: {error}; install it again") from None


def sign_again(folder: Path, bundle: bundles.Bundle) -> None:
    """Give an installed release the signature of the same bundle, which another key may have made."""
    content = disk.read(bundle.folder / signature.NAME, signature.MAX_BYTES)
    if disk.read(folder / signature.NAME, signature.MAX_BYTES) != content:
        aside = folder.with_name(".signature")  # a release holds signed files only, even after a kill
        disk.write(aside, content)
        os.replace(aside, folder / signature.NAME)
        disk.sync(folder)
