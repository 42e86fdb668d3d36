"""The page of the evidence is what the records give, and anything else is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from evidence import page, protocol, records, running
from evidence.__main__ import main
from evidence.statistics import Difference
from tests.evidence.fake import PROTOCOL, ROW


def test_the_page_of_this_repository_is_what_its_records_give() -> None:
    assert page.wrong() == []


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with records and page of the small row alone."""
    monkeypatch.setattr(protocol, "names", lambda: [PROTOCOL.name])
    monkeypatch.setattr(protocol, "row", lambda name: ROW)
    chosen = running.choose(ROW, [], [0, 1])
    running.run(ROW, chosen, tmp_path / "results", lambda _: None)
    page.write(tmp_path / "results", tmp_path / "docs")
    assert page.wrong(tmp_path / "results", tmp_path / "docs") == []
    assert page.changed_plots(tmp_path / "results", tmp_path / "docs") == []
    return tmp_path


def _edit_record(root: Path, edit: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    path = records.path_of(root / "results", PROTOCOL.name, "small", 1)
    content = json.loads(path.read_text())
    edit(content["figures"])
    path.write_text(json.dumps(content))


def test_a_changed_record_is_found(written: Path) -> None:
    _edit_record(written, lambda figures: figures.update(loss=figures["loss"] + 0.001))
    (found,) = page.wrong(written / "results", written / "docs")
    assert "the records give" in found
    assert page.changed_plots(written / "results", written / "docs") == []
    _edit_record(written, lambda figures: figures["course"][0].__setitem__(1, 9.0))
    assert page.changed_plots(written / "results", written / "docs") == [PROTOCOL.name]


def test_a_changed_page_is_found(written: Path) -> None:
    path = written / "docs" / "evidence.md"
    for word in ("± ", "large - small", "one core"):
        text = path.read_text("utf-8")
        path.write_text(text.replace(word, "x", 1), encoding="utf-8")
        (found,) = page.wrong(written / "results", written / "docs")
        assert "evidence.md, line" in found
        path.write_text(text, encoding="utf-8")
    (written / "docs" / "evidence" / "fake-row.svg").unlink()
    (found,) = page.wrong(written / "results", written / "docs")
    assert "is missing" in found


def test_arms_that_should_share_a_figure_are_held_to_it(written: Path) -> None:
    _edit_record(written, lambda figures: figures.update(steps=6))
    (found,) = page.wrong(written / "results", written / "docs")
    assert "steps must be equal in all arms" in found


def test_the_page_says_what_is_not_run(written: Path) -> None:
    text = (written / "docs" / "evidence.md").read_text("utf-8")
    assert "Not complete yet: 4 of 6 runs." in text
    assert "Not run yet." in page.text([(ROW, {})])


def test_a_reading_stands_under_its_table_once_all_runs_are_there(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = replace(ROW, reading="A larger step went further.")
    monkeypatch.setattr(protocol, "row", lambda name: read)
    early = f"{PROTOCOL.name} has a reading after 4 of 6 runs"
    assert early in page.wrong(written / "results", written / "docs")
    running.run(ROW, running.choose(ROW, [], [2]), written / "results", lambda _: None)
    page.write(written / "results", written / "docs")
    assert page.wrong(written / "results", written / "docs") == []
    text = (written / "docs" / "evidence.md").read_text("utf-8")
    assert text.index("| large |") < text.index("\nWhat came out: A larger step went further.\n")


def test_a_figure_that_the_protocol_sets_is_not_compared(written: Path) -> None:
    there = records.read(written / "results", PROTOCOL)
    loss, seconds = PROTOCOL.metrics
    kept = replace(PROTOCOL, metrics=(loss, replace(seconds, compared=False)))
    assert "| large - small | seconds |" in page.text([(ROW, there)])
    text = page.text([(replace(ROW, protocol=kept), there)])
    assert "| large - small | loss |" in text
    assert "| large - small | seconds |" not in text
    assert "| arm | seeds | loss | seconds |" in text


def test_an_interval_around_nothing_is_noise_by_rule() -> None:
    assert page.verdict(Difference(-0.1, -0.3, 0.1, 5)) == page.NOISE
    assert page.verdict(Difference(-0.1, -0.1, 0.0, 5)) == page.NOISE
    assert page.verdict(Difference(0.0, 0.0, 0.0, 5)) == "equal"
    assert page.verdict(Difference(-0.2, -0.3, -0.1, 5)) == "lower"
    assert page.verdict(Difference(0.2, 0.1, 0.3, 5)) == "higher"
    assert page.verdict(Difference(0.2, None, None, 1)) == "one seed: no interval"


def test_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["list", "--results", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for name in protocol.names():
        assert name in shown
    assert main(["run", "no-such-row"]) == 2
    assert "NAME must be one of" in capsys.readouterr().err
    assert main(["check", "--results", str(tmp_path)]) == int(any(records.RESULTS.rglob("*.json")))
