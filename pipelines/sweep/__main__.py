"""A sweep: run a grid over pair, methods, seeds and any param, each cell as a DVC experiment.

    python -m pipelines.sweep 'method.rsd.weight=0.05,0.1,0.2' --seeds 0 1 2
    python -m pipelines.sweep NAME                  # the grid of conf/sweep/NAME.yaml
    python -m pipelines.sweep NAME --dask           # on Dask; --dask tcp://HOST:8786 on its workers there

Each cell runs in a clone of its own, shares DVC's cache with the others, and is an experiment of this project
afterwards (`dvc exp show`). Stages that cells share run first, once. The same command again runs the cells that are
missing. Tables and a plot go to out/sweeps/NAME/.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from pipelines.server.connection import one_sentence, server_that_answers
from pipelines.sweep.flows import sweep
from pipelines.sweep.grid import check_words, grids_of
from pipelines.sweep.prepare import remote_url
from pipelines.sweep.units import PARAMS
from rsd.machine.errors import UserError
from rsd.run.paths import Run


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the flow in this folder and print its table; the last line of a failure is its sentence, the status 1."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "grid", nargs="+", metavar="NAME | PARAM=VALUE,...", help="of conf/sweep/, or axes as for dvc exp run -S"
    )
    parser.add_argument("--methods", nargs="+", help="of every cell; scratch is added")
    parser.add_argument("--seeds", nargs="+", type=int, help="of every cell")
    parser.add_argument("--split", nargs="+", choices=["methods", "seeds"], help="a cell for each of these")
    parser.add_argument("--targets", nargs="+", help="stages that a cell is brought up to date for; default: evaluate")
    parser.add_argument("--name", help="of the sweep; default: a digest of its grid")
    parser.add_argument("--jobs", type=int, help="cells side by side; default: one for each core")
    parser.add_argument(
        "--dask", nargs="?", const="local", metavar="ADDRESS", help="default: a cluster on this machine"
    )
    parser.add_argument("--git-remote", help="that Dask's workers clone from; none: they see this folder")
    parser.add_argument("--dvc-remote", help="through which they share what stages wrote")
    options = parser.parse_args(arguments)
    where = {name: getattr(options, name) for name in ("jobs", "dask", "git_remote", "dvc_remote")}
    own = {name: getattr(options, name) for name in ("grid", "methods", "seeds", "split", "targets")}
    start = time.time()
    with one_sentence():
        if len(options.grid) == 1 and "=" not in options.grid[0]:
            [name], own["grid"] = options.grid, None
            if extra := [key for key, value in {**own, "name": options.name}.items() if value is not None]:
                raise UserError(f"conf/sweep/{name}.yaml says what it goes over; leave out --{' --'.join(extra)}")
        else:
            digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:6]
            name = options.name or f"grid-{digest}"
        check_words(grids_of(name, own, Path()), Path(PARAMS))  # now, not after the server's start-up
        if options.git_remote is not None:
            remote_url(Path(), options.git_remote)  # refused before the server gets to know it
        table = Run().sweeps / name / "table.md"
        try:
            with server_that_answers():
                sweep(name, **own, **where)
        finally:
            if table.is_file() and table.stat().st_mtime >= start:
                print(f"\n{table.read_text()}\n{table.parent}/plot.png, experiments: dvc exp show")


if __name__ == "__main__":
    main()
