"""Times of stages are lines of a file."""

from rsd.run.times import StageTime, note, read


def test_what_is_noted_is_read_in_order(tmp_path):
    file = tmp_path / ".state" / "times.jsonl"
    late, early = (StageTime(stage="device", start=start, seconds=2, imports=0.5) for start in (30, 10))
    assert read(file) == []
    for time in (late, early):
        note(time, file)
    assert read(file) == [early, late]
    assert early.end == 12


def test_half_a_line_hides_no_other(tmp_path):
    file = tmp_path / "times.jsonl"
    note(StageTime(stage="device", start=1, seconds=2), file)
    with file.open("a") as lines:
        lines.write('{"stage": "par\n')
    note(StageTime(stage="params", start=3, seconds=2), file)
    assert [time.stage for time in read(file)] == ["device", "params"]
