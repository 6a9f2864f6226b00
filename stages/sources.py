"""Images and weights outside the project -> out/sources/: their digests. Runs at every `dvc repro`."""

from rsd.machine.files import write_json
from rsd.run.records import Watched
from rsd.sources.listing import listing, weights_content
from stages import OUT, run


def main() -> None:
    # Not read from the sections `data` and `teacher`: their types import torch, and this stage must be quick.
    watched = OUT.section("watched", Watched)
    write_json(OUT.sources / "data.json", {str(path): listing(path) for path in watched.data})
    write_json(OUT.sources / "teacher.json", {str(path): weights_content(path) for path in watched.teacher})


if __name__ == "__main__":
    run(main)
