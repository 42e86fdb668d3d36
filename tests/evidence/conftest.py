"""Checkpoints of rows that are measured in tests go into a folder of the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from evidence import running


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "WORK", tmp_path / "work")
