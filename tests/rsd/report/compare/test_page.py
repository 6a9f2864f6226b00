from rsd.report.compare.page import write_page
from tests.rsd.report.test_page import Text, charts_of

from .conftest import better_by


def test_the_page_stands_alone_and_names_every_run(make_run, tmp_path):
    page = tmp_path / "compare.html"
    write_page(page, [make_run("main"), make_run("exp-<b>", better_by(0.5)), make_run("third")])
    html = page.read_text()
    text = Text(html)
    assert all(address.startswith(("#", "data:")) for address in text.addresses)
    assert "<b>" not in html
    assert text.seen.index("What each run ships") < text.seen.index("Params that differ")
    assert "Every param is the same in all runs." in text.seen
    assert "The same in every run, seed by seed: teacher, scratch." in text.seen
    assert set(charts_of(html)) == {"accuracy", "latency", "rsd-validation_top1", "rsd-loss"}
    for spec in charts_of(html).values():
        runs = {row["run"] for rows in spec["datasets"].values() for row in rows}
        assert runs == {"main", "exp-<b>", "third"}


def test_the_same_runs_give_the_same_bytes(make_run, tmp_path):
    runs = [make_run("main"), make_run("new")]
    for name in ("one.html", "two.html"):
        write_page(tmp_path / name, runs)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
