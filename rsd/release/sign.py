"""A signed copy of the bundle, with a key that never comes near the project; `rsd sign`."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from rsd.machine.errors import UserError
from rsd.machine.extras import needs
from rsd.machine.files import sha256, written_aside
from rsd.machine.revision import git_revision
from rsd.release.state import check_state
from rsd.run.names import MANIFEST
from rsd.run.records import Manifest

SIGNATURE = "model.sig"


def make_key(stem: Path) -> tuple[Path, Path]:
    """Make an ECDSA key on P-256: `stem`.pem, which only its owner can read, and `stem`.pub.

    Raises:
        UserError: one of them exists, or they would lie in a repository or a bundle.
    """
    needs("sign", "cryptography")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private, public = (stem.with_name(stem.name + suffix) for suffix in (".pem", ".pub"))
    _refuse_near(private)
    if existing := [path for path in (private, public) if path.exists()]:
        raise UserError(f"expected no key at {existing[0]}, found one; choose another name, and keep the old key")
    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    private.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    with written_aside(public) as aside:
        aside.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
    return private, public


def commit_of(bundle: Path) -> str:
    """The commit of the current folder, which holds what the bundle was made from.

    Raises:
        UserError: something is not committed, or the bundle is not of the state that `dvc.lock` records.
    """
    changed = _changed_files()
    if changed is None:
        raise UserError("expected the project that made the bundle as the current folder, found no git repository")
    if changed:
        raise UserError(
            f"expected everything committed that the bundle was made from, found {changed[0]} changed or new; commit "
            "it with dvc.lock, or sign a release that has no commit with --allow-dirty"
        )
    Manifest.of(bundle)
    check_state(bundle.parent.parent)
    return str(git_revision())


def sign(bundle: Path, target: Path, key: Path, *, commit: str | None = None) -> Manifest:
    """Copy `bundle` to `target`, where its manifest says that it is signed, and sign it there; the new manifest.

    The bundle itself stays as DVC knows it. Links become files.

    Args:
        bundle: as the `bundle` stage made it.
        target: the folder to be made.
        key: the private key.
        commit: what the signed manifest says as `origin.git_revision`, see `commit_of`; None: signed without one.

    Raises:
        UserError: the key lies in a repository or the bundle or is none, `target` exists or lies in the bundle, the
            bundle is not what its manifest says, or holds a private key.
    """
    signing, hashing = _library("signing"), _library("hashing")
    _refuse_near(key, bundle)
    if not key.is_file():
        raise UserError(f"expected a private key in {key}, found no file; make one with `rsd sign key`")
    if target.exists() or bundle.resolve() in target.resolve().parents:
        raise UserError(f"expected a folder to be made for the signed bundle, found {target}; choose another place")
    manifest = _checked(bundle)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The signature names the folder that it was made in.
    with tempfile.TemporaryDirectory(prefix=".signing-", dir=target.parent) as folder, written_aside(target) as aside:
        work = Path(folder) / f"{manifest.name}-{manifest.release}"
        for name in [*manifest.files, MANIFEST]:
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / name, work / name)
            if b"PRIVATE KEY-----" in (work / name).read_bytes():
                raise UserError(f"expected no private key in the bundle, found one in {name}; take it out")
        manifest.signed = True
        manifest.origin.git_revision = commit
        manifest.write(work)
        _checked(work)  # the bundle may have changed while it was copied
        config = signing.Config().set_hashing_config(_every_file(hashing))
        try:
            config.use_elliptic_key_signer(private_key=key).sign(work, work / SIGNATURE)
        except (ValueError, TypeError) as error:
            raise UserError(
                f"expected an unencrypted ECDSA key in {key}, found: {error}; make one with `rsd sign key`"
            ) from error
        work.replace(aside)
    return manifest


def verify(bundle: Path, key: Path) -> None:
    """Check a signed bundle against a public key, by `model-signing`; UserError if it is not as this key signed it."""
    verifying, hashing = _library("verifying"), _library("hashing")
    if not (bundle / SIGNATURE).is_file():
        raise UserError(f"expected a signed bundle in {bundle}, found no {SIGNATURE}; sign it first")
    try:
        config = verifying.Config().set_hashing_config(_every_file(hashing))
        config.use_elliptic_key_verifier(public_key=key).verify(bundle, bundle / SIGNATURE)
    except OSError:
        raise
    except Exception as error:  # the library lets every parser's own error through
        raise UserError(f"expected {bundle} as it was signed, found: {error or 'another'}; do not ship it") from error


def _changed_files() -> list[str] | None:
    """Changed and new files of the current folder's repository, without ignored ones; None outside of a repository."""
    status = ["git", "status", "--porcelain", "-z", "--no-renames"]
    try:
        output = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return [line[3:] for line in output.split("\0") if line]


def _library(name: str) -> Any:
    needs("sign", "model_signing", "OpenSSL")
    import model_signing

    return getattr(model_signing, name)


def _every_file(hashing: Any) -> Any:
    """All files except the signature. By default the library also leaves out git's files."""
    return hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _checked(bundle: Path) -> Manifest:
    """The manifest of a bundle that is whole."""
    manifest = Manifest.of(bundle)
    files = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if not path.is_dir()}
    if wrong := files ^ {*manifest.files, MANIFEST}:
        raise UserError(
            f"expected the files of its manifest in {bundle}, found another set (first: {min(wrong)}); "
            "run `dvc repro bundle`"
        )
    for name, file in manifest.files.items():
        if sha256(bundle / name) != file.sha256:
            raise UserError(f"expected {name} as the manifest has it, found it changed; run `dvc repro bundle`")
    return manifest


def _refuse_near(key: Path, bundle: Path | None = None) -> None:
    """Refuse a key where git, DVC or a bundle could pick it up."""
    folders = key.resolve().parents
    for folder in folders:
        for mark in (".git", ".dvc", "dvc.yaml", MANIFEST):
            if (folder / mark).exists():
                raise UserError(
                    f"expected the private key outside of every repository and bundle, found {key} in {folder}, "
                    f"which has {mark}; keep it elsewhere"
                )
    if bundle and bundle.resolve() in folders:
        raise UserError(f"expected the private key outside of the bundle, found {key}; keep it elsewhere")
