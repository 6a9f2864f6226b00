"""Everything a device needs -> out/bundle/: one folder with a manifest, not yet signed."""

from pathlib import Path

from rsd.machine.errors import UserError
from rsd.release.bundle import BundleOptions, write_bundle
from rsd.release.card import bundle_card
from rsd.run.paths import Run
from rsd.sources.images import read_record, read_split
from stages import OUT, run


def main() -> None:
    here = Run(OUT)
    shipped, precisions = here.shipped(), here.choice().precisions
    metrics = here.evaluation().of(shipped.student.name)
    if metrics is None:
        raise UserError(f"expected {shipped.student.name} to be evaluated, found it is not; run `dvc repro evaluate`")
    converted = [here.converted(precision) for precision in precisions]
    made_from = shipped.made_from | here.digests("shipped.json", "evaluate/models.json", "export/export.json")
    for file in converted:
        made_from |= file.made_from | file.files
    export, data = here.export(), read_record(here.data)
    student = here.student(shipped.student.method, shipped.student.seed)
    manifest = write_bundle(
        here.bundle,
        here.section("bundle", BundleOptions),
        export=export,
        converted=converted,
        engines=[here.engine(precision) for precision in precisions],
        images=read_split(here.data, "test").images,
        record=data,
        metrics=metrics,
        latency=here.latency(),
        licences=Path("licences"),
        made_from=made_from,
        card=str(bundle_card(student, here.teacher(), data, export=export, converted=converted)),
    )
    print(f"{manifest['name']} release {manifest['release']}: {len(manifest['files'])} files, not signed")


if __name__ == "__main__":
    run(main)
