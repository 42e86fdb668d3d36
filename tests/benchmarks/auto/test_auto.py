"""The grid of `auto` names what is faster than its choice; the plot holds every contender."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import sparse_patterns as sp
from benchmarks.auto import plot, suite
from benchmarks.suites import Options
from benchmarks.timing import Effort

OPTIONS = Options(lengths=(20,), effort=Effort(rounds=1))
INPUTS = torch.randn(3, 1, 4, 20, 8).unbind(0)


def test_a_wrong_choice_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, by_name = suite.contenders(sp.Window(2, 2), INPUTS, "forward")
    assert chosen in by_name
    times = {name: [3.0 if name == chosen else 2.0] for name in by_name}
    assert len(times) > 1
    monkeypatch.setattr(suite, "interleave", lambda calls, effort: times)
    row = suite.compared("auto-window", sp.Window(2, 2), INPUTS, "forward", OPTIONS)
    assert row.measured == 1.5
    assert row.met is False
    assert f"auto takes {chosen}" in row.note


def run_once(calls: dict[str, Callable[[], object]], effort: Effort) -> dict[str, list[float]]:
    """Runs each call, which must not fail; times would take seconds."""
    for call in calls.values():
        call()
    return {name: [1.0] for name in calls}


def test_the_grid_stops_at_the_longest_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "LENGTHS", (8, 16, 32))
    monkeypatch.setattr(suite, "HEADS", 2)
    monkeypatch.setattr(suite, "interleave", run_once)
    rows = list(suite.grid("auto-window", OPTIONS))
    assert {row.length for row in rows} == {8, 16}
    assert len(rows) == 2 * len(suite.BATCHES) * len(suite.TYPES) * 2


def test_every_contender_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    times = {"forward": plot.measure("forward", Effort(rounds=1), (16, 32))}
    plot.draw(times, "a title", tmp_path / "times.svg")
    text = (tmp_path / "times.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {name} -->" in text for name in times["forward"])
    assert {len(points) for points in times["forward"].values()} == {2}
