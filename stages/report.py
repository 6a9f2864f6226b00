"""Everything measured -> out/report.html: one page to look at."""

from pathlib import Path

from rsd.report.page import write_page
from stages import OUT, run


def main() -> None:
    write_page(OUT.report, OUT, params=Path("params.yaml"), budget=Path("budget"))


if __name__ == "__main__":
    run(main)
