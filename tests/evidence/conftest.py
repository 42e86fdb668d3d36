"""Checkpoints of rows that are measured in tests go into a folder of the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from evidence import running, samples, text
from tests.evidence.encoder_fakes import dump, encoder, reviews


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As `running.measure` does it: sums on several threads may differ from one run to the next."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "WORK", tmp_path / "work")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts a small encoder and small texts in place of the real ones; returns a run's folder."""
    monkeypatch.setenv(samples.ENCODER, str(encoder(tmp_path / "bert")))
    monkeypatch.setenv(text.VARIABLE, str(dump(tmp_path / "dump.xml", 12)))
    monkeypatch.setenv(samples.REVIEWS, str(reviews(tmp_path / "reviews.csv", 6)))
    folder = tmp_path / "build" / "row" / "arm-seed0"
    folder.mkdir(parents=True)
    return folder
