"""A Prefect server with all deployments and a worker on this machine: `make server` and `make server-stop`.

    python -m pipelines.server start | stop

Everything of it lives in PREFECT_HOME, `.prefect/` of the project if that is not set: the database, the logs, and
who runs. What already runs is left alone, what died is started again, and runs that died with it are taken up.
Where PREFECT_API_URL names another server, that one gets the deployments, and only the worker is started here.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pipelines.server.connection import one_sentence
from pipelines.server.daemons import site
from pipelines.server.lifecycle import start, stop


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.server", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("do", choices=["start", "stop"])
    with one_sentence():
        {"start": start, "stop": stop}[parser.parse_args(arguments).do](site(Path()))


if __name__ == "__main__":
    main()
