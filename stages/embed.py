"""Teacher and training images -> out/views/: the teacher's outputs for every stored view."""

from rsd.machine import unfinished
from rsd.machine.compute import ComputeOptions, on_this_machine, set_up
from rsd.machine.launch import is_launcher, launch
from rsd.machine.parallel import leads, leave
from rsd.machine.words import counted, size_in_words
from rsd.models.folder import load_trained
from rsd.sources.images import read_split
from rsd.teacher.embed import check_store, write_store
from rsd.teacher.store import ViewOptions, store_digests
from rsd.views.augment import AugmentOptions
from stages import OUT, run


def main() -> None:
    options = OUT.section("views", ViewOptions)
    augment = OUT.section("augment", AugmentOptions)
    compute = on_this_machine(OUT.section("compute", ComputeOptions))
    if options.count and is_launcher(compute):
        launch("stages.embed", [], compute)
        return
    device = set_up(compute)
    teacher, normalize, _ = load_trained(OUT.teacher_folder)
    record = OUT.teacher()
    images = read_split(OUT.data, "train")
    size = options.count * len(images.labels) * 2 * (record.embedding_width + len(record.classes))
    if options.count and leads():
        views = f"{counted(options.count, 'view')} of {counted(len(images.labels), 'image')}"
        print(f"view store: {views}, {size_in_words(size)}", flush=True)
    elif not options.count:
        print("view store: none (views.count is 0), the teacher will run live")
    made_from = store_digests(teacher=record.weights, dataset=OUT.dataset, augment=augment, options=options)
    state = unfinished.state_file("embed", {"made_from": made_from, "device": device.type, "threads": compute.threads})
    header = write_store(
        OUT.views,
        teacher.to(device),
        normalize.to(device),
        images,
        augment=augment,
        options=options,
        made_from=made_from,
        unfinished=state.parent / "store",
        workers=compute.workers,
    )
    if leads():
        unfinished.forget(state)
    if leads() and options.count:
        labelled = int((images.labels >= 0).sum())
        of = "" if labelled == len(images.labels) else f", of the {counted(labelled, 'image')} with a label"
        print(f"teacher on its stored views: top-1 {header.top1:.2f} %{of}")
        check_store(header, classes=len(record.classes), validation_top1=record.validation.top1)
    leave()


if __name__ == "__main__":
    run(main)
