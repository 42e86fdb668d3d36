"""Short inputs and first calls: each case gives its figure, and first calls find no plan."""

import pytest
import torch

import sparse_patterns as sp
from benchmarks.first import suite
from benchmarks.suites import Options
from benchmarks.timing import Effort
from sparse_patterns.lowering.plan import _plan

OPTIONS = Options(effort=Effort(rounds=1))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that take no time."""
    monkeypatch.setattr(suite, "SHORT", {"short": (2, 2, 16, sp.Window(3, 3), True)})
    monkeypatch.setattr(suite, "NEW_LENGTHS", 3)
    monkeypatch.setattr(suite, "SHORTEST", 20)
    monkeypatch.setattr(suite, "LONGEST", 40)
    monkeypatch.setattr(suite, "BIGBIRD_LENGTH", 256)
    monkeypatch.setattr(suite, "PLAN_LENGTH", 512)
    monkeypatch.setattr(suite, "ROUNDS", 2)


def test_a_short_call_is_compared_in_both_passes() -> None:
    forward, both = suite.short("short", OPTIONS)
    assert (forward.direction, both.direction) == ("forward", "forward+backward")
    assert forward.goal is None
    assert both.goal == suite.SHORT_GOAL
    assert both.measured == pytest.approx(both.samples["ours"][0] / both.samples["other"][0])


@pytest.mark.parametrize("case", [suite.new_lengths, suite.bigbird_first])
def test_first_calls_are_compared_with_the_same_again(
    case, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[int] = []
    plain = sp.attention

    def spy(q: torch.Tensor, *more: object) -> object:
        before = _plan.cache_info().misses
        out = plain(q, *more)
        plans.append(_plan.cache_info().misses - before)
        return out

    monkeypatch.setattr(sp, "attention", spy)
    (row,) = case(OPTIONS)
    rounds = len(row.samples["ours"])
    assert rounds == len(row.samples["other"]) >= 2
    # Each pair of calls makes a plan, then finds it.
    assert plans[-2 * rounds :] == [1, 0] * rounds
    assert row.measured is not None


def test_a_plan_is_made_anew_each_time() -> None:
    (row,) = suite.bigbird_plan(OPTIONS)
    assert _plan.cache_info().currsize == 1
    assert row.measured == pytest.approx(sum(row.samples["ours"]) / 2)


def test_forgetting_forgets_everything() -> None:
    first = sp.plan(sp.get("bigbird"), 256, heads=2)
    parts = first.groups[0].parts
    suite.forget()
    again = sp.plan(sp.get("bigbird"), 256, heads=2)
    assert again is not first
    assert not any(one is other for one in again.groups[0].parts for other in parts)
