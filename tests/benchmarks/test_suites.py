"""Suites and cases are found by name, and a run prints and saves what it measured."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import suites
from benchmarks.__main__ import main
from benchmarks.suites import Case, Options, cases_of, select
from benchmarks.table import Row


def fine(options: Options) -> Iterator[Row]:
    for length in options.lengths:
        yield Row("fine", "a figure", length, measured=1.0)


def broken(options: Options) -> Iterator[Row]:
    yield Row("broken", "a figure", options.lengths[0], measured=1.0)
    raise RuntimeError("no luck")


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite `small` beside the real ones."""
    module = ModuleType("small_suite")
    module.CASES = [Case("broken", "fails", broken), Case("fine", "works", fine)]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "small_suite", module)
    monkeypatch.setitem(suites.SUITES, "small", "small_suite")


@pytest.mark.parametrize("suite", suites.SUITES)
def test_every_suite_has_cases_of_distinct_names(suite: str) -> None:
    names = [case.name for case in cases_of(suite)]
    assert names
    assert len(set(names)) == len(names)


def test_an_unknown_suite_is_refused() -> None:
    with pytest.raises(ValueError, match=f"one of {', '.join(suites.SUITES)}, got 'cores'"):
        cases_of("cores")


def test_cases_are_selected_by_a_part_of_their_name() -> None:
    cases = [Case(name, "", fine) for name in ("dense", "dense-masked", "flex")]
    assert [case.name for case in select(cases, ["dense"])] == ["dense", "dense-masked"]
    assert select(cases, []) == cases
    with pytest.raises(ValueError, match="no case is named 'sparse'; there are dense, dense-mask"):
        select(cases, ["sparse"])


@pytest.mark.usefixtures("_small")
def test_a_case_that_fails_is_reported_and_the_rest_still_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.json"
    assert main(["small", "--lengths", "8", "4", "--threads", "1", "--out", str(out)]) == 1
    rows = json.loads(out.read_text())["rows"]
    assert [(row["case"], row["figure"], row["length"]) for row in rows] == [
        ("broken", "a figure", 4),
        ("broken", "failed", None),
        ("fine", "a figure", 4),
        ("fine", "a figure", 8),
    ]
    assert "broken: RuntimeError: no luck" in capsys.readouterr().out


@pytest.mark.usefixtures("_small")
def test_a_part_can_be_run(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    assert main(["small", "--only", "fine", "--lengths", "4", "--out", str(out)]) == 0
    assert len(json.loads(out.read_text())["rows"]) == 1


def test_wrong_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--rounds", "0"])
    assert "--rounds and --threads must be at least 1" in capsys.readouterr().err
