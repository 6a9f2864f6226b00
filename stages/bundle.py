"""Everything a device needs -> out/bundle/: one folder with a manifest, not yet signed."""

from pathlib import Path

from rsd.machine.files import read_json
from rsd.machine.revision import git_revision
from rsd.release.bundle import BundleOptions, lock_digest, params_digest, write_bundle
from rsd.run.paths import Run
from rsd.sources.images import read_record, read_split
from stages import OUT, run, section


def main() -> None:
    precisions = read_json(OUT / "params" / "run.json")["precisions"]
    exported = Run(OUT).export()
    models = {record["model"]: record for record in read_json(OUT / "evaluate" / "models.json")}
    manifest = write_bundle(
        OUT / "bundle",
        section("bundle", BundleOptions),
        exported=exported,
        models={precision: OUT / "convert" / precision for precision in precisions},
        engines={precision: OUT / "engines" / precision for precision in precisions},
        images=read_split(OUT / "data", "test").images,
        record=read_record(OUT / "data"),
        metrics=models[exported.student],
        latency=read_json(OUT / "benchmark" / "latency.json"),
        licences=Path("licences"),
        origin={
            "git_revision": git_revision(),
            "params_sha256": params_digest(OUT / "params"),
            "dvc_lock_sha256": lock_digest(Path("dvc.lock")),
        },
    )
    print(f"{manifest['name']} release {manifest['release']}: {len(manifest['files'])} files, not signed")


if __name__ == "__main__":
    run(main)
