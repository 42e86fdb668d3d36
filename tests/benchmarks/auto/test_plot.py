"""The plot of `auto` holds every contender."""

from pathlib import Path

import pytest

from benchmarks.auto import plot
from benchmarks.timing import Effort


def test_every_contender_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    times = {"forward": plot.measure("forward", Effort(rounds=1), (16, 32))}
    plot.draw(times, "a title", tmp_path / "times.svg")
    text = (tmp_path / "times.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {name} -->" in text for name in times["forward"])
    assert {len(points) for points in times["forward"].values()} == {2}


def test_a_length_has_a_tick_where_one_curve_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curves = {"short": [(16, 1.0)], "long": [(16, 1.0), (32, 2.0)]}
    plot.draw({"forward": curves}, "a title", tmp_path / "times.svg")
    assert "<!-- 32 -->" in (tmp_path / "times.svg").read_text(encoding="utf-8")
