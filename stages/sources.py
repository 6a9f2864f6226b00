"""Images and weights outside the project -> out/sources/: their digests. Runs at every `dvc repro`."""

from pathlib import Path

from rsd.machine.files import read_json, write_json
from rsd.sources.listing import listing, weights_content
from stages import OUT, run


def main() -> None:
    # Not read from the sections `data` and `teacher`: their types import torch, and this stage must be quick.
    watched = read_json(OUT / "params" / "watched.json")
    write_json(OUT / "sources" / "data.json", {path: listing(Path(path)) for path in watched["data"]})
    write_json(OUT / "sources" / "teacher.json", {path: weights_content(Path(path)) for path in watched["teacher"]})


if __name__ == "__main__":
    run(main)
