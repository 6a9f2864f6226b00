"""Compare revisions or experiments, each with the first, on one self-contained page.

    python -m pipelines.compare main exp-abc              # writes out/compare.html
    python -m pipelines.compare HEAD~1 HEAD workspace --page FILE

A revision is a branch, a tag, a commit, an experiment of DVC, or `workspace`: the files as they lie here. DVC reads its
records, from the cache or else from the default remote; the workspace is not touched.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from dvc.api import DVCFileSystem
from dvc_data.index import DataIndexDirError

from pipelines.git import experiments, git
from rsd.machine.errors import UserError
from rsd.report.compare.page import write_page
from rsd.report.compare.run import ComparedRun
from rsd.report.records import Records, read
from rsd.run.paths import MissingError, Run

WORKSPACE = "workspace"
PAGE = Run().compare_page
CODE = ("rsd", "stages", "methods", ":!rsd/report")
"""What makes the numbers; how they are shown does not."""


def compare(root: Path, revisions: Sequence[str], page: Path) -> None:
    """Write the comparison of `revisions` of the DVC project in `root` to `page`.

    Raises:
        UserError: fewer than two revisions, an unknown one, one without an evaluation, or records that are neither in
            DVC's cache nor in its default remote.
    """
    if len(set(revisions)) < 2 or len(set(revisions)) < len(revisions):
        raise UserError(f"expected two different revisions or more, found {' '.join(revisions) or 'none'}")
    if not (root / ".dvc").is_dir():
        raise UserError(f"expected a DVC project in {root}, found none; start the command in the project's folder")
    commits = [commit_of(root, name) for name in revisions]
    runs = [
        run(root, name, commit, changed_code(root, commits[0], commit))
        for name, commit in zip(revisions, commits, strict=True)
    ]
    write_page(page, runs)


def commit_of(root: Path, revision: str) -> str | None:
    """The commit of a revision or experiment; None for the workspace."""
    if revision == WORKSPACE:
        return None
    known = experiments(root)
    for name in (revision, known.get(revision)):
        if name and not name.startswith("-"):
            try:
                return git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
            except UserError:
                continue
    refs = git(root, "for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads", "refs/tags").split()
    near = get_close_matches(revision, [WORKSPACE, *refs, *known])
    hint = f"did you mean {' or '.join(near)}?" if near else "`git branch` and `dvc exp list` show what there is"
    raise UserError(f"expected a branch, tag, commit or experiment, found {revision!r}, which is none; {hint}")


def run(root: Path, name: str, commit: str | None, code: tuple[str, ...] = ()) -> ComparedRun:
    """What a revision recorded, read through DVC."""
    files = opened(root, commit)
    with tempfile.TemporaryDirectory() as folder:
        if missing := fetched(files, Path(folder)):
            names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            raise UserError(
                f"expected the records of {name} in DVC's cache or its default remote, found no {names}; run "
                "`dvc fetch --all-commits` (an experiment: `dvc exp pull REMOTE NAME`), or check it out and `dvc repro`"
            )
        copy = Run.of(Path(folder))
        if not copy.evaluation_file.is_file():
            raise UserError(f"expected an evaluated run at {name}, found none; check it out and run `dvc repro`")
        records, bundle_is_stale = parsed(name, copy), _bundle_is_stale(copy)
    bundle, test = (_recorded(files, str(path)) for path in (Run().bundle, Run().data / "test"))
    bundle_bytes = None if bundle_is_stale or bundle is None else bundle[1]
    return ComparedRun(name, commit, records, bundle_bytes, test and test[0], code)


def opened(root: Path, commit: str | None) -> DVCFileSystem:
    """The files of a revision, by the present cache and remotes: a commit may be older than its remote."""
    here = DVCFileSystem(str(root)).repo.config
    config = {section: here[section] for section in ("core", "cache", "remote")}
    return DVCFileSystem(str(root), rev=commit, config=config)


def fetched(files: DVCFileSystem, folder: Path) -> list[str]:
    """Copy the records of a revision below `folder`; returns those that dvc.lock names but that are nowhere."""
    missing = []
    for pattern in Run().shown:
        try:
            for path in files.glob(pattern):
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    target.write_bytes(files.read_bytes(path))
                except FileNotFoundError:
                    if _recorded(files, path):  # else no run has written this output
                        missing.append(path)
        except DataIndexDirError:  # the list of a folder's files is in the cache, too
            missing.append(pattern)
    return missing


def parsed(name: str, run: Run) -> Records:
    """The records of a run; those of another version of the project may be of another form."""
    try:
        return read(run)
    except UserError as error:
        raise UserError(
            f"expected an evaluated run of this version of the project at {name}: {error}; check it out and run "
            "`dvc repro` with the present code"
        ) from error


def changed_code(root: Path, first: str | None, other: str | None) -> tuple[str, ...]:
    """The files of code that differ between two revisions."""
    commits = [commit for commit in (first, other) if commit]
    if first == other or not commits:
        return ()
    return tuple(git(root, "diff", "--name-only", *commits, "--", *CODE).splitlines())


def _bundle_is_stale(run: Run) -> bool:
    """Whether the bundle is of another student, as in a run that stopped before it."""
    try:
        bundle = run.bundled()
    except MissingError:
        return False
    return bundle.place in run.stale(bundle)


def _recorded(files: DVCFileSystem, path: str) -> tuple[str, int] | None:
    """The digest and the bytes of an output, by dvc.lock."""
    try:
        info = files.info(path).get("dvc_info") or {}
    except FileNotFoundError:
        return None
    return (info["md5"], info["size"]) if "md5" in info else None


def main() -> None:
    summary, _, details = str(__doc__).partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revisions", nargs="+", metavar="REVISION")
    parser.add_argument("--page", type=Path, default=PAGE, help=f"the HTML file to write; {PAGE} if not given")
    options = parser.parse_args()
    try:
        compare(Path.cwd(), options.revisions, options.page)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(options.page)


if __name__ == "__main__":
    main()
