"""A source of images -> out/data/: train, validation and test splits, and dataset.json."""

from rsd.sources.base import Source
from stages import OUT, run


def main() -> None:
    record = OUT.section("data", Source).prepare(OUT.data)
    OUT.check_batches(record)
    OUT.write(record)
    size = f"{record.height} x {record.width}"
    print(f"{record.source}: {record.stated_counts}; images of {size}, {len(record.classes)} classes")


if __name__ == "__main__":
    run(main)
