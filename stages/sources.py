"""What the params name outside of the project -> out/sources/. Runs at every `dvc repro`: DVC does not watch it."""

from pathlib import Path

from rsd.machine.files import read_json, write_json
from rsd.sources.listing import listing, weights_content
from stages import OUT, run


def main() -> None:
    # Read as they are: the options' own types would bring torch, and this stage runs every time.
    data, teacher = (read_json(OUT / "params" / f"{name}.json") for name in ("data", "teacher"))
    # What is downloaded is held to known checksums where it is read.
    root = None if data.get("download") else data.get("root")
    write_json(OUT / "sources" / "data.json", {"listing": listing(Path(root)) if root else None})
    path = teacher.get("path")
    write_json(OUT / "sources" / "teacher.json", {"sha256": weights_content(Path(path)) if path else None})


if __name__ == "__main__":
    run(main)
