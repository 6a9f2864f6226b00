"""The command `rsd-edge`. Each command imports what it needs itself, so that `status` does not load the runtime."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsd_edge import choices
from rsd_edge.choices import Pins
from rsd_edge.errors import EdgeError
from rsd_edge.health import ready_at
from rsd_edge.releases import Releases
from rsd_edge.serve_options import add_options, number, options_from

ROOT = Path("/var/lib/rsd-edge")
KEYS = Path("/etc/rsd-edge/keys")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; an error that the user can mend becomes one sentence on stderr and exit status 1."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except EdgeError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: expected to read and write, found: {error}; free space, or correct the permissions")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; what was current is current")


def _verify(args: argparse.Namespace) -> None:
    from rsd_edge import bundle as bundles
    from rsd_edge.archive import unpacked

    with tempfile.TemporaryDirectory() as temporary, unpacked(args.bundle, Path(temporary) / "bundle") as folder:
        bundle = bundles.read(folder, _keys(args))
        bundles.check_files(bundle)
    print(f"{bundle.manifest.id}: signed by a pinned key, {len(bundle.files)} files and {bundle.bytes} bytes as signed")


def _install(args: argparse.Namespace) -> None:
    releases = Releases(args.root)
    name, new = releases.install(args.bundle, _keys(args), allow_downgrade=args.allow_downgrade, keep=args.keep)
    current = releases.current()
    advice = "it is current" if current and current.name == name else "`rsd-edge activate` makes it current"
    print(f"{name}: {'installed' if new else 'was installed already'}; {advice}")


def _activate(args: argparse.Namespace) -> None:
    releases = Releases(args.root)
    name = releases.activate(_keys(args), args.release, pins=_pins(args), **_watch_options(args))
    choice = choices.read(args.root, name, releases.status()["manifest_sha256"])
    print(f"{name}: current and good")
    if choice:
        count = f"{choice.threads} thread{'s' if choice.threads > 1 else ''}"
        print(f"it runs as {choice.pair} with {count}: {choice.reason}; `rsd-edge status` shows the others")
    _note_unwatched(args)


def _rollback(args: argparse.Namespace) -> None:
    name = Releases(args.root).rollback(_keys(args), **_watch_options(args))
    print(f"{name}: current again")
    _note_unwatched(args)


def _recover(args: argparse.Namespace) -> None:
    from rsd_edge.admission import check_signed

    releases = Releases(args.root)
    try:
        name = releases.recover(_keys(args))
    except (OSError, EdgeError) as error:
        # A full or read-only disk, or a damaged key file: what is whole is served on without any write.
        sentence = str(error)
        if isinstance(error, OSError):
            sentence = f"expected to repair {args.root}, found: {error}; free space, or let it be written"
        current = releases.to_serve()
        folder = releases.whole_or_earlier(current, _keys(args)) if current else None
        if current is None or folder is None:
            raise EdgeError(sentence) from None
        print(f"warning: {sentence}", file=sys.stderr)
        if folder != current:
            print(f"warning: {current.name} is damaged; {folder.name} is served instead", file=sys.stderr)
        name = folder.name
    print(f"{name}: current" if name else "no release is current; install and activate one")
    if name:
        try:
            check_signed(releases.folder / name, _keys(args))
        except EdgeError as error:
            print(f"warning: {name} is served on, but it would not be taken again: {error}", file=sys.stderr)


def _status(args: argparse.Namespace) -> None:
    status = Releases(args.root).status()
    if args.json:
        print(json.dumps(status, indent=2))
        return
    for name in ("current", "pending", "good", "installed"):
        value = status[name]
        print(f"{name:<10} {', '.join(value) if isinstance(value, list) else value or 'none'}")
    current = status["current"]
    choice = choices.read(args.root, current, status["manifest_sha256"]) if current else None
    none = f"choice     none; `rsd-edge {'recover' if current else 'activate'}` makes one"
    print("", *(choice.lines() if choice else [none]), "", sep="\n")
    for event in status["events"]:
        facts = (f"{key} {value}" for key, value in event.items() if key not in ("time", "event") and value is not None)
        print(event.get("time"), event["event"] + ":", ", ".join(facts))


def _predict(args: argparse.Namespace) -> None:
    from rsd_edge.model import top_classes

    model = _model(args)
    failed = False
    for path in args.images:
        try:
            (logits,) = model.infer(model.pixels(path.read_bytes())[None])
        except (EdgeError, OSError) as error:
            print(f"error: {path}: {error}", file=sys.stderr)
            failed = True
            continue
        classes = (f"{model.labels[index]} {share:.1%}" for index, share in top_classes(logits, args.top))
        print(f"{path}: " + ", ".join(classes))
    if failed:
        sys.exit(1)


def _bench(args: argparse.Namespace) -> None:
    import numpy as np

    from rsd_edge.selftest import latency

    model = _model(args)
    images = np.random.default_rng(0).integers(0, 256, (16, *model.input_shape), np.uint8)
    times = latency(model.infer, images, samples=args.samples)
    print(
        f"{model.name} release {model.release}, {model.pair} on {model.provider}, {model.threads} threads: "
        f"p50 {times.p50:.3f} ms, p90 {times.p90:.3f} ms, p99 {times.p99:.3f} ms over {times.samples} single images"
    )


def _serve(args: argparse.Namespace) -> None:
    from rsd_edge import serve

    serve.main(args.root, options_from(args), _keys(args))


def _model(args: argparse.Namespace) -> Any:
    from rsd_edge.choosing import open_model

    current = Releases(args.root).current()
    if current is None:
        raise EdgeError("expected a current release, found none; run `rsd-edge install` and `rsd-edge activate`")
    return open_model(args.root, current, _pins(args), lambda sentence: print(f"warning: {sentence}", file=sys.stderr))


def _pins(args: argparse.Namespace) -> Pins:
    return Pins(args.precision, args.runtime, args.threads)


def _keys(args: argparse.Namespace) -> list[Path]:
    return sorted(args.keys.glob("*.pub"))


def _watch_options(args: argparse.Namespace) -> dict[str, Any]:
    if args.server and not args.server.startswith(("http://", "https://")):
        raise EdgeError(f"expected the address of a server such as http://127.0.0.1:8080, found {args.server!a}")
    return {"window": args.window, "keep": args.keep, "healthy": ready_at(args.server) if args.server else None}


def _note_unwatched(args: argparse.Namespace) -> None:
    if not args.server:
        print("not watched: with --server http://127.0.0.1:8080 it is taken back if the server does not serve it")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rsd-edge", description="Signed releases of a model on this device.")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the releases (default: %(default)s)")
    parser.add_argument(
        "--keys", type=Path, default=KEYS, help="folder with the one or two pinned keys, *.pub (default: %(default)s)"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Any, help_: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".")
        parser.set_defaults(run=run)
        return parser

    count = number(int, 1, 1_000_000)
    verify = command("verify", _verify, "check a bundle's signature and files")
    install = command("install", _install, "check a bundle and copy it to this device; what is served does not change")
    for each in (verify, install):
        each.add_argument("bundle", type=Path, help="folder of the bundle, or a tar file of it")
    install.add_argument("--allow-downgrade", action="store_true", help="install an older release too, and log it")
    activate = command("activate", _activate, "test an installed release and make it current")
    activate.add_argument("release", nargs="?", help="such as digits-7 (default: the one installed last)")
    rollback = command("rollback", _rollback, "go back to the good release before the current one")
    for each in (activate, rollback):
        each.add_argument("--server", help="address where the release must become ready, or it is taken back")
        each.add_argument(
            "--window", type=number(float, 0.01, 1e6), default=10.0, help="seconds to watch (default: 10)"
        )
    command("recover", _recover, "after a crash or a power cut, go back to the last good release")
    for each in (install, activate, rollback):
        each.add_argument("--keep", type=count, default=3, help="good releases to keep (default: %(default)s)")
    status = command("status", _status, "print what is current, installed and good, and how it is run")
    status.add_argument("--json", action="store_true", help="all of it as JSON")
    predict = command("predict", _predict, "classify image files with the current release")
    predict.add_argument("images", type=Path, nargs="+")
    predict.add_argument("--top", type=count, default=3, help="classes to print (default: %(default)s)")
    bench = command("bench", _bench, "time the current release on this device")
    bench.add_argument("--samples", type=count, default=1000, help="inferences (default: %(default)s)")
    for each in (activate, predict, bench):
        add_options(each, only=("precision", "runtime", "threads"))
    add_options(command("serve", _serve, "serve the current release over HTTP"))
    return parser
