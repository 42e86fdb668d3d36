"""Measuring: what is recorded stays, an interrupted row goes on, and a seed gives one result."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evidence import records, running
from evidence.protocol import Row
from tests.evidence.fake import PROTOCOL, ROW, measure

ALL = running.choose(ROW, [], [])


def test_a_row_that_is_interrupted_goes_on(tmp_path: Path) -> None:
    measured = []

    def interrupted(arm: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(seed)
        return measure(arm, seed, folder)

    with pytest.raises(KeyboardInterrupt):
        running.run(Row(PROTOCOL, interrupted), ALL, tmp_path, lambda _: None)
    assert measured == [0, 0]  # both arms of a seed before the next seed
    before = records.read(tmp_path, PROTOCOL)
    assert list(before) == [("large", 0), ("small", 0)]

    assert running.run(ROW, ALL, tmp_path, lambda _: None) == 4
    after = records.read(tmp_path, PROTOCOL)
    assert set(after) == set(ALL)
    assert {key: after[key] for key in before} == before
    assert running.run(ROW, ALL, tmp_path, lambda _: None) == 0


def test_a_seed_gives_the_recorded_figures_again_bit_for_bit(tmp_path: Path) -> None:
    running.run(ROW, ALL, tmp_path, lambda _: None)
    said: list[str] = []
    assert running.again(ROW, ALL[:2], tmp_path, said.append) == 0
    assert said == [f"fake-row {arm} seed 0: bit for bit as recorded" for arm in PROTOCOL.arms]
    then = records.read(tmp_path, PROTOCOL)["large", 0].figures
    # What is no function of the seed is left out, and nothing else.
    assert running.measure(ROW, "large", 0).figures["seconds"] != then["seconds"]


def test_a_run_that_is_not_reproducible_is_told(tmp_path: Path) -> None:
    system = random.SystemRandom()

    def restless(arm: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
        found = measure(arm, seed, folder)
        return {**found, "loss": found["loss"] + system.random()}

    row, said = Row(PROTOCOL, restless), []
    running.run(row, ALL[:1], tmp_path, lambda _: None)
    assert running.again(row, ALL[:1], tmp_path, said.append) == 1
    assert "loss: " in said[0]
    assert "bit for bit" not in said[0]
    assert "commit" not in said[0]


def test_a_difference_stands_beside_the_spread_of_the_seeds() -> None:
    one, two = {"loss": 1.0, "course": [[0, 1.0]]}, {"loss": 3.0, "course": [[0, 3.0]]}
    now = {"loss": 1.25, "course": [[0, 1.0]]}
    (found,) = running.differences(ROW, one, now, [one, two])
    assert found == "loss: 1.0 then, 1.25 now (+0.25; 2 seeds: ± 1.41)"
    (found,) = running.differences(ROW, one, now, [one])
    assert found == "loss: 1.0 then, 1.25 now (+0.25)"
    found, other = running.differences(ROW, one, two)
    assert (found, other) == ("course: not the same", "loss: 1.0 then, 3.0 now (+2)")


def test_other_sources_are_named_where_figures_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(arm: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
        found = measure(arm, seed, folder)
        return {**found, "loss": found["loss"] + 1e-6}

    monkeypatch.setattr(records, "_commit", lambda: "0123456789ab")
    running.run(ROW, ALL[:1], tmp_path, lambda _: None)
    monkeypatch.setattr(records, "_commit", lambda: "ba9876543210")
    said: list[str] = []
    assert running.again(ROW, ALL[:1], tmp_path, said.append) == 0
    assert running.again(Row(PROTOCOL, shifted), ALL[:1], tmp_path, said.append) == 1
    assert said[0].endswith("bit for bit as recorded")
    assert said[1].endswith("; recorded at commit 0123456789ab, now ba9876543210")


def test_a_pilot_records_nothing_and_forecasts(tmp_path: Path) -> None:
    said: list[str] = []
    running.pilot(ROW, ALL, said.append)
    assert "the whole row: 6 times" in said[-1]


def test_what_is_asked_for_must_be_in_the_protocol(tmp_path: Path) -> None:
    assert running.choose(ROW, ["small"], [2]) == [("small", 2)]
    with pytest.raises(ValueError, match="--arms must be of large, small, got huge"):
        running.choose(ROW, ["huge"], [])
    with pytest.raises(ValueError, match="--seeds must be of 0, 1, 2, got 7"):
        running.choose(ROW, [], [7])
    with pytest.raises(ValueError, match="there are none of fake-row"):
        running.again(ROW, ALL, tmp_path)
    with pytest.raises(ValueError, match="arm must be of large, small: 'huge'"):
        replace(PROTOCOL, comparisons=(("huge", "small"),))
    with pytest.raises(ValueError, match="different numbers, got"):
        replace(PROTOCOL, seeds=(1, 1))
