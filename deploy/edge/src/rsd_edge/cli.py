"""The command `rsd-edge`. What a command needs is imported by it alone: `status` waits for no runtime."""

import argparse
import errno
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsd_edge.errors import EdgeError
from rsd_edge.health import served
from rsd_edge.releases import Releases
from rsd_edge.serve_options import add_options, options_from

ROOT = Path("/var/lib/rsd-edge")
KEYS = Path("/etc/rsd-edge/keys")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what the person can mend becomes one sentence on stderr and exit status 1."""
    given = _parser().parse_args(arguments)
    try:
        given.run(given)
    except EdgeError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: expected to read and write, found: {error}; free space or mend rights")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; what was current is current")


def _verify(given: argparse.Namespace) -> None:
    from rsd_edge import bundle as bundles
    from rsd_edge.archive import unpacked

    with (
        tempfile.TemporaryDirectory() as temporary,
        unpacked(given.bundle, Path(temporary) / "bundle") as folder,
    ):
        bundle = bundles.read(folder, _keys(given))
        bundles.take(bundle)
    print(f"{bundle.id}: signed by a pinned key, {len(bundle.files)} files and {bundle.bytes} bytes as signed")


def _install(given: argparse.Namespace) -> None:
    releases = Releases(given.root)
    name, new = releases.install(given.bundle, _keys(given), allow_downgrade=given.allow_downgrade, keep=given.keep)
    print(f"{name}: {'installed' if new else 'was installed already'}; `rsd-edge activate` makes it current")


def _activate(given: argparse.Namespace) -> None:
    name = Releases(given.root).activate(given.release, **_watched(given))
    print(f"{name}: current and good")
    _tell_unwatched(given)


def _rollback(given: argparse.Namespace) -> None:
    name = Releases(given.root).rollback(**_watched(given))
    print(f"{name}: current again")
    _tell_unwatched(given)


def _recover(given: argparse.Namespace) -> None:
    releases = Releases(given.root)
    try:
        name = releases.recover(keys=_keys(given), keep=given.keep)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        said = f"expected to put things right in {given.root}, found it read-only; mount it so that it can be written"
        found = releases.to_serve()
        if found is None or not found.is_dir():
            raise EdgeError(said) from None
        print(f"warning: {said}", file=sys.stderr)
        name = found.name
    print(f"{name}: current" if name else "no release is current; install and activate one")


def _status(given: argparse.Namespace) -> None:
    print(json.dumps(Releases(given.root).status(), indent=2))


def _predict(given: argparse.Namespace) -> None:
    import numpy as np

    model = _model(given)
    failed = False
    for path in given.images:
        try:
            logits = model.infer(model.preprocess(model.decode(path.read_bytes()))[None])[0].astype(np.float64)
        except (EdgeError, OSError) as error:
            print(f"error: {path}: {error}", file=sys.stderr)
            failed = True
            continue
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        best = np.argsort(-logits, kind="stable")[: given.top]
        print(f"{path}: " + ", ".join(f"{model.labels[i]} {shares[i]:.1%}" for i in best))
    if failed:
        sys.exit(1)


def _bench(given: argparse.Namespace) -> None:
    import numpy as np

    from rsd_edge.selftest import latency

    model = _model(given)
    images = np.random.default_rng(0).integers(0, 256, (16, *model.input_shape), np.uint8)
    found = latency(model, images, samples=given.samples)
    print(
        f"{model.name} release {model.release}, {model.precision} on {model.provider}, {given.threads} threads: "
        f"p50 {found.p50:.3f} ms, p90 {found.p90:.3f} ms, p99 {found.p99:.3f} ms over {found.samples} single images"
    )


def _serve(given: argparse.Namespace) -> None:
    from rsd_edge import serve

    serve.main(given.root, options_from(given))


def _model(given: argparse.Namespace) -> Any:
    from rsd_edge.model import Model

    current = Releases(given.root).current()
    if current is None:
        raise EdgeError("expected a current release, found none; run `rsd-edge install` and `rsd-edge activate`")
    return Model.open(current, precision=given.precision, threads=given.threads)


def _keys(given: argparse.Namespace) -> list[Path]:
    return sorted(given.keys.glob("*.pub"))


def _watched(given: argparse.Namespace) -> dict[str, Any]:
    if given.server and not given.server.startswith(("http://", "https://")):
        raise EdgeError(f"expected the address of a server such as http://127.0.0.1:8080, found {given.server!a}")
    return {"window": given.window, "keep": given.keep, "healthy": served(given.server) if given.server else None}


def _tell_unwatched(given: argparse.Namespace) -> None:
    if not given.server:
        print("not watched: with --server http://127.0.0.1:8080 it would have been taken back if it were not served")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rsd-edge", description="Signed releases of a model on this device.")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the releases (default: %(default)s)")
    parser.add_argument(
        "--keys", type=Path, default=KEYS, help="folder with the one or two pinned keys, *.pub (default: %(default)s)"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Any, help_: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".")
        made.set_defaults(run=run)
        return made

    verify = command("verify", _verify, "check a bundle's signature and files")
    install = command("install", _install, "check a bundle and copy it here; what is served does not change")
    for made in (verify, install):
        made.add_argument("bundle", type=Path, help="its folder, or a tar file of that")
    install.add_argument("--allow-downgrade", action="store_true", help="take an older release, and log it")
    activate = command("activate", _activate, "test an installed release and make it current")
    activate.add_argument("release", nargs="?", help="such as digits-7 (default: installed last)")
    rollback = command("rollback", _rollback, "go back to the good release before the current one")
    for made in (activate, rollback):
        made.add_argument("--server", help="address that must say it is ready with the release, or it is taken back")
        made.add_argument("--window", type=_positive(float), default=10.0, help="seconds to watch it (default: 10)")
    recover = command("recover", _recover, "after a crash or a power cut, go back to the last good release")
    for made in (install, activate, rollback, recover):
        made.add_argument("--keep", type=_positive(int), default=3, help="good releases to keep (default: %(default)s)")
    command("status", _status, "say what is current, installed and good, as JSON")
    predict = command("predict", _predict, "classify image files with the current release")
    predict.add_argument("images", type=Path, nargs="+")
    predict.add_argument("--top", type=_positive(int), default=3, help="classes to print (default: %(default)s)")
    bench = command("bench", _bench, "time the current release on this device")
    bench.add_argument("--samples", type=_positive(int), default=1000, help="inferences (default: %(default)s)")
    for made in (predict, bench):
        made.add_argument("--precision", help="which model of the release (default: its first)")
        made.add_argument("--threads", type=_positive(int), default=1, help="of the CPU (default: %(default)s)")
    add_options(command("serve", _serve, "serve the current release over HTTP"))
    return parser


def _positive(kind: type) -> Any:
    def number(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < 1e9:
            raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
        return value

    return number
