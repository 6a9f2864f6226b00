"""Small enough for a second; that the figures are right nobody can say of so small a store."""

from benchmarks import large_store


def test_every_way_has_a_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(large_store, "WARM", 1)
    large_store.main(images=600, views=2, seconds=0.01, folder=tmp_path)
    lines = capsys.readouterr().out.splitlines()
    ways = [line.split(" | ")[0].removeprefix("| ") for line in lines]
    assert ways[2] == "written"
    assert [way.split(",")[0] for way in ways[3:]] == ["numpy", "ours"] * 4
    assert not [*tmp_path.iterdir()]
