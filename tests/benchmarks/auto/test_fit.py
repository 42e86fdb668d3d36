"""The fit finds the seconds of each kind of work that times were made of."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.auto import fit, grid, records
from benchmarks.auto.measuring import Outcome, request_of
from sparse_patterns.kernels.dispatch import KERNELS
from sparse_patterns.kernels.rates.work import is_serial, table


def test_rates_are_found_and_none_is_below_zero() -> None:
    torch.manual_seed(0)
    rates = {"call": 3e-4, "pair": 2e-9, "strip": 0.0}
    amounts = torch.rand(40, 3) * torch.tensor([1.0, 1e6, 10.0])
    works = [dict(zip(rates, row.tolist(), strict=True)) for row in amounts]
    samples = [(work, sum(rates[kind] * work[kind] for kind in rates)) for work in works]
    found = fit.fitted(samples)
    assert found["call"] == pytest.approx(3e-4, rel=1e-3)
    assert found["pair"] == pytest.approx(2e-9, rel=1e-3)
    assert 0 <= found["strip"] < 1e-8
    assert fit.errors(samples, found).sub(1).abs().max() < 1e-3


def test_a_file_of_rates_is_made_of_a_grid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = grid.cells(["window", "causal"], [64, 200, 300], [1, 2], ["float32"])
    outcomes = []
    for cell in cells:
        request = request_of(cell)
        work = KERNELS["dense"].work(request, request.plan) or {}
        seconds = sum(
            amount * 1e-6 if is_serial(kind) else amount * 1e-9 / 2 for kind, amount in work.items()
        )
        outcomes.append(Outcome(cell, "tiles", {}, {"dense": seconds}, 1))
    settings = {"processor": "Mill 1", "torch": "2", "threads": 2, "clock": "wall clock"}
    records.save(tmp_path / "grid.json", settings, outcomes)
    fit.main([str(tmp_path / "grid.json"), "--date", "2026-01-02"])
    made = json.loads(capsys.readouterr().out)
    assert made["dense"]["source"].startswith("measured 2026-01-02 on Mill 1, torch 2, 2 threads")
    assert made["dense"]["seconds"]["pair"] + 64 * made["dense"]["seconds"]["product"] == (
        pytest.approx(65e-9, rel=0.02)
    )
    assert made["tiles"] == table()["tiles"]
