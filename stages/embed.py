"""Teacher and training images -> out/views/: the teacher's outputs for every stored view."""

from rsd.compute import ComputeOptions, set_up
from rsd.data.augment import AugmentOptions
from rsd.data.images import read_split
from rsd.models import load_trained, normalizer
from rsd.views import ViewOptions, store_digest, write_store
from stages import OUT, run, section


def main() -> None:
    options = section("views", ViewOptions)
    augment = section("augment", AugmentOptions)
    device = set_up(section("compute", ComputeOptions))
    teacher, record = load_trained(OUT / "teacher", "model")
    images = read_split(OUT / "data", "train").images
    size = options.count * len(images) * 2 * (record["embedding_width"] + len(record["classes"]))
    if options.count:
        print(f"view store: {options.count} views of {len(images)} images, {size / 1e6:.1f} MB")
    else:
        print("view store: none (views.count is 0), the teacher will run live")
    write_store(
        OUT / "views",
        teacher.to(device),
        normalizer(record).to(device),
        images,
        augment=augment,
        options=options,
        digest=store_digest(
            teacher=OUT / "teacher" / "model.safetensors",
            dataset=OUT / "data" / "dataset.json",
            augment=augment,
            options=options,
        ),
    )


if __name__ == "__main__":
    run(main)
