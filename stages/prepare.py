"""A source of images -> out/data/: train, validation and test splits, and dataset.json."""

from pydantic import TypeAdapter

from rsd.machine.files import read_json
from rsd.sources.prepare import DataOptions, prepare
from stages import OUT, run


def main() -> None:
    options = TypeAdapter(DataOptions).validate_python(read_json(OUT / "params" / "data.json"))
    record = prepare(options, OUT / "data")
    counts = ", ".join(f"{count} {split}" for split, count in record.counts.items())
    print(f"{record.source}: {counts} images of {record.height} x {record.width}, {len(record.classes)} classes")


if __name__ == "__main__":
    run(main)
