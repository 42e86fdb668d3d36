"""A figure is judged by its goal, printed in line, and saved whole."""

import json
from pathlib import Path

import pytest

from benchmarks.table import WIDTHS, Goal, Row, header, line, save


@pytest.mark.parametrize(
    ("goal", "measured", "met"),
    [
        (Goal(">=", 5), 5.0, True),
        (Goal(">=", 5), 4.9, False),
        (Goal("<=", 1.2), 1.2, True),
        (Goal("<=", 1.2), 1.3, False),
        (None, 1.0, None),
        (Goal("<=", 1.2), None, None),
    ],
)
def test_a_figure_is_judged_by_its_goal(
    goal: Goal | None, measured: float | None, met: bool | None
) -> None:
    assert Row("case", "figure", measured=measured, goal=goal).met is met


def test_a_goal_is_a_bound() -> None:
    with pytest.raises(ValueError, match="relation must be '>=' or '<=', got '=='"):
        Goal("==", 1)


def test_rows_line_up_under_the_header() -> None:
    row = Row("huggingface", "times faster", 4096, measured=5.5, goal=Goal(">=", 5), ours="1.0 ms")
    titles, rule = header().splitlines()
    printed = line(row.cells())
    assert len(titles) == len(rule) == len(printed) == sum(WIDTHS) + 3 * len(WIDTHS) + 1
    cells = [cell.strip() for cell in printed.strip("|").split("|")]
    assert cells[1:7] == ["4,096", "forward", "times faster", "5.50", ">= 5", "yes"]


def test_a_figure_that_could_not_be_had_prints_as_such() -> None:
    assert "n/a" in Row("flex", "not available", note="no compiler").cells()


def test_rows_are_saved_with_every_sample_and_verdict(tmp_path: Path) -> None:
    row = Row("c", "f", measured=2.0, goal=Goal("<=", 1), samples={"ours": [1.0, 2.0, 3.0]})
    save(tmp_path / "new" / "r.json", [row], {"threads": 2})
    saved = json.loads((tmp_path / "new" / "r.json").read_text())
    assert saved["about"] == {"threads": 2}
    (entry,) = saved["rows"]
    assert entry["samples"] == {"ours": [1.0, 2.0, 3.0]}
    assert entry["goal"] == {"relation": "<=", "bound": 1}
    assert entry["met"] is False
