from benchmarks.latency import beside_a_loop, compare, table
from rsd.measure.latency import Plan


def test_the_default_students_rows_stand_beside_eager_pytorch(monkeypatch):
    """Two rounds of a few calls: that the rows are made. Compiling would take a minute, so its row says why not."""
    monkeypatch.setenv("CXX", "no-compiler")
    record = compare(Plan(warmup_seconds=0, min_seconds=0, min_samples=4, rounds=2), ["default student"])
    runs = {(row.runtime, row.precision) for row in record.rows}
    assert {("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("pytorch", "fp32")} <= runs
    assert [row.status.split(":")[0] for row in record.rows] == [*["measured"] * 3, "not measured"]
    assert all(row.samples for row in record.rows[:3])
    lines = table(record).splitlines()
    assert len(lines) == 2 + len(record.rows)
    (eager,) = [line for line in lines if "| pytorch |" in line]
    assert "| 1.00 | 1.00 |" in eager


def test_the_harness_is_timed_beside_a_bare_loop(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.latency.CALLS", 3)
    result = beside_a_loop(tmp_path, 2)
    assert list(result.columns) == ["bare", "ours"]
    assert (result > 0).all().all()
