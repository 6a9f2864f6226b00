"""`rsd sign`: the release step after `dvc repro` and a commit."""

from pathlib import Path
from typing import Annotated

import typer

from rsd.cli.options import app_of

app = app_of("Make keys, sign bundles, verify them.")


@app.command()
def key(path: Annotated[Path, typer.Argument(help="Where the key goes, without a suffix: ~/keys/release.")]) -> None:
    """Make a pair of keys.

    PATH.pem is the private key and stays secret; PATH.pub is the public key and goes to the devices.

    Example: rsd sign key ~/keys/release
    """
    from rsd.release.sign import make_key

    private, public = make_key(path)
    print(f"{private}: keep it secret and safe\n{public}: pin it on the devices")


@app.command()
def bundle(
    bundle: Annotated[Path, typer.Argument(help="The bundle of the last run: out/bundle.")],
    target: Annotated[Path, typer.Argument(help="The folder of the signed copy; it must not exist.")],
    key: Annotated[Path, typer.Option(help="The private key, a .pem file.")],
    allow_dirty: Annotated[
        bool, typer.Option("--allow-dirty", help="Sign what is not committed; the manifest says so.")
    ] = False,
) -> None:
    """Write a signed copy of a bundle.

    Commit first: the signed manifest names the commit.

    Example: rsd sign bundle out/bundle ~/releases/digits-1 --key ~/keys/release.pem
    """
    from rsd.release.sign import commit_of, sign

    commit = None if allow_dirty else commit_of(bundle)
    manifest = sign(bundle, target, key, commit=commit)
    origin = f"commit {commit}" if commit else "no commit"
    print(f"{target}: {manifest.name} release {manifest.release}, signed, of {origin}")


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="A signed bundle.")],
    key: Annotated[Path, typer.Option(help="The public key, a .pub file.")],
) -> None:
    """Check a signed bundle against a public key.

    Example: rsd sign verify ~/releases/digits-1 --key ~/keys/release.pub
    """
    from rsd.release.sign import verify

    verify(bundle, key)
    print(f"{bundle}: signed by {key}")
