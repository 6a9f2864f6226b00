"""params.yaml and the files it names -> out/params/: one checked file per section, and each chosen method's code."""

from pathlib import Path

from rsd.config.resolve import param_files
from stages import OUT, run


def main() -> None:
    OUT.write_params(param_files(Path("params.yaml"), Path("conf")))


if __name__ == "__main__":
    run(main)
