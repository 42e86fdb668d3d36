"""The grid of `auto` names what is faster than its choice, and goes on where it was stopped."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from benchmarks.auto import command, grid, measuring, records
from benchmarks.auto.grid import Cell
from benchmarks.auto.measuring import Outcome, explained, measure
from benchmarks.timing import Effort

CELL = Cell("window", 20, 1, "float32", "forward", 8)
EFFORT = Effort(rounds=1)
SMALL = ["--threads", "1", "--lengths", "20", "--batches", "1", "--types", "float32"]


def run_once(
    calls: Mapping[str, Callable[[], object]], effort: Effort
) -> tuple[dict[str, float], int]:
    """Runs each call, which must not fail; takes the first, of four, to be the slowest."""
    for call in calls.values():
        call()
    return {name: 1.0 / (1 + number) for number, name in enumerate(calls)}, 1


def test_a_wrong_choice_is_named_with_the_faster_kernel() -> None:
    one = Outcome(CELL, "tiles", {"tiles": 1e-3, "sdpa": 2e-3}, {"tiles": 3e-3, "sdpa": 2e-3})
    assert one.wrong
    assert one.loss == 1.5
    line = command.told(one)
    assert "window, 1 x 20 tokens, heads of size 8, float32, forward: tiles is 1.50x" in line
    assert line.index("sdpa 2.0 ms") < line.index("tiles 3.0 ms")
    right = Outcome(CELL, "sdpa", one.declared, one.measured)
    assert not right.wrong
    assert "1 of 2 calls with a choice are wrong" in command.summary([one, right])


def test_a_kernel_that_takes_too_long_is_left_out_with_its_reason() -> None:
    declared = {one.kernel: one.seconds for one in explained(CELL).verdicts if one.seconds}
    bound = sorted(declared.values())[1]
    found = measure(CELL, EFFORT, longest_s=bound)
    assert len(found.measured) == 2
    assert all("declared to take" in told for told in found.left_out.values())
    assert found.measured.keys() | found.left_out.keys() == declared.keys()


@pytest.mark.parametrize("name", grid.PATTERNS)
def test_every_pattern_of_the_grid_has_a_choice_at_every_length(name: str) -> None:
    for length in (64, 200, 512):
        assert explained(Cell(name, length, 8, "bfloat16", "forward+backward")).chosen


def test_a_grid_goes_on_where_it_was_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measuring, "timed", run_once)
    path = tmp_path / "grid.json"
    arguments = [*SMALL, "--out", str(path), "--patterns", "full"]
    assert command.main(arguments) == 0
    settings, before = records.load(path)
    assert [one.cell.direction for one in before] == ["forward", "forward+backward"]
    told = capsys.readouterr().out
    assert sum(one.wrong for one in before) == told.count("wrong  ")

    with pytest.raises(SystemExit):
        command.main(arguments)
    assert "add --resume" in capsys.readouterr().err
    monkeypatch.setattr(command, "measure", lambda cell, *_: Outcome(cell, "sdpa", {}))
    assert command.main([*arguments, "window", "--resume"]) == 0
    _, after = records.load(path)
    assert after[:2] == before
    assert [one.cell.pattern for one in after[2:]] == ["window", "window"]

    records.save(path, {**settings, "threads": 7}, after)
    with pytest.raises(SystemExit):
        command.main([*arguments, "--resume"])
    assert "other settings: threads 7, now 1" in capsys.readouterr().err
    path.write_text("{}")
    with pytest.raises(ValueError, match="holds no grid of auto"):
        records.load(path)
