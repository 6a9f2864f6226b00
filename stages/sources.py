"""Images and weights outside the project -> out/sources/: their digests. Runs at every `dvc repro`."""

from rsd.run.records import Sources, Watched
from rsd.sources.listing import listing, weights_content
from stages import OUT, run


def main() -> None:
    # Not read from the sections `data` and `teacher`: their types import torch, and this stage must be quick.
    watched = OUT.section("watched", Watched)
    OUT.write(Sources(kind="data", digests={str(path): listing(path) for path in watched.data}))
    OUT.write(Sources(kind="teacher", digests={str(path): weights_content(path) for path in watched.teacher}))
    OUT.write(Sources(kind="student", digests={str(path): weights_content(path) for path in watched.student}))


if __name__ == "__main__":
    run(main)
