"""params.yaml and the files it names -> out/params/: one checked file per section, and each chosen method's code."""

from pathlib import Path

from rsd.config.exportable import check_exportable
from rsd.config.resolve import SECTIONS, param_files
from stages import OUT, run


def main() -> None:
    files = param_files(Path("params.yaml"), Path("conf"))
    check_exportable(*(SECTIONS[name].model_validate(files[f"{name}.json"]) for name in ("student", "data", "export")))
    OUT.write_params(files)


if __name__ == "__main__":
    run(main)
