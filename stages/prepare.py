"""A source of images -> out/data/: train, validation and test splits, and dataset.json."""

from rsd.sources.base import Source
from rsd.sources.images import write_record
from stages import OUT, run


def main() -> None:
    folder = OUT.data
    record = OUT.section("data", Source).prepare(folder)
    write_record(folder, record)
    counts = ", ".join(f"{count} {split}" for split, count in record.counts.items())
    print(f"{record.source}: {counts} images of {record.height} x {record.width}, {len(record.classes)} classes")


if __name__ == "__main__":
    run(main)
