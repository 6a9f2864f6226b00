"""Start or stop a Prefect server with all deployments and a worker on this machine: `make server`, `make server-stop`.

    python -m pipelines.server start | stop

The database, the logs and the process numbers lie in PREFECT_HOME, or in `.prefect/` of the project if that is not
set. Processes that run are left alone, processes that died are started again, and so are flow runs that died with them.
Where PREFECT_API_URL names another server, that server gets the deployments, and only the worker is started here.
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
