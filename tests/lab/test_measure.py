"""Times of calls, one after the other; the rest of lab/benchmark/measure.py is under test in test_benchmark.py."""

from functools import partial

from lab.benchmark.measure import seconds_in_turns


def test_calls_are_timed_in_turns() -> None:
    called: list[str] = []
    runs = {name: partial(called.append, name) for name in ("one", "other")}
    seconds = seconds_in_turns(runs, repeats=2, warm_ups=1)
    assert called == ["one", "other"] * 3
    assert seconds.keys() == runs.keys()
    assert all(taken > 0 for taken in seconds.values())
