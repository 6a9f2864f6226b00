from rsd.measure.sustained import WINDOWS, sustained


def test_every_call_is_in_a_window():
    calls: list[int] = []
    windows, samples = sustained(lambda: calls.append(1), 0.06)
    assert len(windows) == len(samples) == WINDOWS
    assert len(calls) == sum(map(len, samples)) == sum(window["samples"] for window in windows)
