"""Everything a device needs -> out/bundle/: one folder with a manifest, not yet signed."""

from pathlib import Path

from rsd.machine.errors import UserError
from rsd.machine.words import counted
from rsd.release.bundle import BundleOptions, data_licences, write_bundle
from rsd.release.card import bundle_card
from rsd.sources.images import read_record, read_split
from stages import OUT, run

LICENCES = Path("licences")


def main() -> None:
    shipped, precisions, name = OUT.shipped(), OUT.choice().precisions, OUT.choice().data
    evaluation, export = OUT.evaluation(), OUT.export()
    metrics = evaluation.of(shipped.student.name)
    if metrics is None:
        raise UserError(f"expected {shipped.student.name} to be evaluated, found it is not; run `dvc repro evaluate`")
    converted = [OUT.converted(precision) for precision in precisions]
    made_from = shipped.made_from | OUT.digests(shipped.file, evaluation.file, export.file)
    for file in converted:
        made_from |= file.made_from | file.files
    data = read_record(OUT.data)
    student = OUT.student(shipped.student.method, shipped.student.seed)
    manifest = write_bundle(
        OUT.bundle,
        OUT.section("bundle", BundleOptions),
        export=export,
        converted=converted,
        engines=[OUT.engine(precision) for precision in precisions],
        images=read_split(OUT.data, "test").images,
        record=data,
        metrics=metrics,
        latency=OUT.latency(),
        licences=LICENCES,
        data_name=name,
        made_from=made_from,
        card=str(bundle_card(student, OUT.teacher(), data, export=export, converted=converted)),
    )
    of_data = data_licences(LICENCES, name, data.source)
    if not any(path.is_file() for path in of_data):
        print(f"no licence of the images goes with it; to add one, write its text to {' or '.join(map(str, of_data))}")
    print(f"{manifest.name} release {manifest.release}: {counted(len(manifest.files), 'file')}, not signed")


if __name__ == "__main__":
    run(main)
