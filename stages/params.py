"""params.yaml and the files it names -> out/params/: one checked file per section, and each chosen method's code."""

from pathlib import Path

from rsd.config.method_code import method_code
from rsd.config.resolve import resolve
from rsd.machine.files import write_json, written_aside
from stages import OUT, run


def main() -> None:
    resolved = resolve(Path("params.yaml"), Path("conf"))
    sections = resolved.pop("method")
    with written_aside(OUT.params) as aside:
        (aside / "code").mkdir(parents=True)
        for name, values in resolved.items():
            write_json(aside / f"{name}.json", values)
        for name, values in sections.items():
            write_json(aside / "method" / f"{name}.json", values)
        for name in resolved["run"]["methods"]:
            (aside / "code" / f"{name}.py").write_text(method_code(name))


if __name__ == "__main__":
    run(main)
