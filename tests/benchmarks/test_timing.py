"""Rounds are interleaved and bounded."""

import pytest

from benchmarks import timing
from benchmarks.timing import Effort, interleave, medians


def test_calls_take_turns_in_an_order_that_turns_around() -> None:
    said: list[str] = []
    calls = {name: lambda name=name: said.append(name) for name in "ab"}
    times = interleave(calls, Effort(rounds=3))
    assert "".join(said) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize(
    ("seconds", "rounds"),
    [(0.001, 15), (1.0, 10), (5.0, 3), (100.0, 3)],
    ids=["all", "as the budget allows", "the fewest", "the fewest, over budget"],
)
def test_slow_calls_get_fewer_rounds(seconds: float, rounds: int) -> None:
    assert Effort(rounds=15, budget_s=10).rounds_of(seconds) == rounds


def test_an_explicit_number_of_rounds_is_never_exceeded() -> None:
    assert Effort(rounds=1).rounds_of(100) == 1


def test_the_median_ignores_one_slow_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 1, 10, 12, 20, 22, 30, 95])  # the first pair is the warm-up
    monkeypatch.setattr(timing, "perf_counter", lambda: next(clock))
    times = interleave({"a": lambda: None}, Effort(rounds=3, budget_s=100))
    assert times == {"a": [2, 2, 65]}
    assert medians(times) == {"a": 2}
