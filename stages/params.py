"""params.yaml and the files it names -> out/params/: one checked file per section, and each method's code."""

import shutil
from pathlib import Path

from rsd.config.resolve import resolve
from rsd.machine.files import write_json, written_aside
from rsd.methods import source
from stages import OUT, run


def main() -> None:
    resolved = resolve(Path("params.yaml"), Path("conf"))
    methods = resolved.pop("method")
    with written_aside(OUT / "params") as aside:
        (aside / "code").mkdir(parents=True)
        for name, values in resolved.items():
            write_json(aside / f"{name}.json", values)
        for name, values in methods.items():
            write_json(aside / "method" / f"{name}.json", values)
            # What `distill` depends on: a method's code has one path here, wherever its file lies.
            shutil.copy(source(name), aside / "code" / f"{name}.py")


if __name__ == "__main__":
    run(main)
