from rsd.report.charts.speed import drift
from rsd.report.drift import verdict


def windows(medians, p99=None):
    return [{"seconds": 10.0 * i, "p50_ms": float(m), "p99_ms": p99 and p99 * (i + 1)} for i, m in enumerate(medians)]


def test_the_last_tenth_is_compared_with_the_first():
    assert verdict(windows([1.0] * 6 + [1.02] * 48 + [1.05] * 6)).startswith("p50 went from 1.00 ms to 1.05 ms, +5.0%")
    assert "noisy" not in verdict(windows([1.0] * 60))


def test_a_dip_in_between_is_reported():
    assert "the p50 of the windows in between differ by 100%: the machine was noisy" in verdict(
        windows([1.0] * 30 + [2] + [1] * 29)
    )


def test_a_growing_tail_has_a_panel():
    grows = windows([1.0] * 60, p99=10.0)
    assert "p99 from 35.0 ms to 575 ms" in verdict(grows)
    panels = drift(grows).to_dict()["vconcat"]
    assert [panel["encoding"]["y"]["title"] for panel in panels] == ["p50 at batch 1, ms", "p99 at batch 1, ms"]
    assert "p99" not in verdict(windows([1.0] * 60))
    assert len(drift(windows([1.0] * 60)).to_dict()["vconcat"]) == 1
