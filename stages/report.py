"""Everything measured -> out/report.html: one page to look at."""

from pathlib import Path

from rsd.machine.revision import git_revision
from rsd.report.page import write_page
from stages import OUT, run


def main() -> None:
    write_page(
        OUT / "report.html",
        evaluation=OUT / "evaluate",
        data=OUT / "data",
        students=OUT / "students",
        convert=OUT / "convert",
        engines=OUT / "engines",
        benchmark=OUT / "benchmark",
        params=OUT / "params",
        device=OUT / "device.json",
        chosen=Path("params.yaml"),
        budget=Path("budget"),
        revision=git_revision(),
    )


if __name__ == "__main__":
    run(main)
