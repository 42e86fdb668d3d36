"""The guard runs a kernel once where its results are finite, and repairs it only where not."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

import sparse_patterns as sp
from sparse_patterns.kernels import exact
from sparse_patterns.kernels.dispatch import KERNELS
from sparse_patterns.kernels.tiles import kernel as tiles

PATTERN = sp.Window(3, 3)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the kernel and the repair of rows are run."""
    seen = Counter[str]()

    def counted(owner: Any, name: str) -> None:
        run = getattr(owner, name)

        def instead(*args: Any, **given: Any) -> Any:
            seen[name] += 1
            return run(*args, **given)

        monkeypatch.setattr(owner, name, instead)

    kernel = type(KERNELS["tiles"])
    assert kernel.__module__ == tiles.__name__
    for name in ("forward", "backward"):
        counted(kernel, name)
    for name in ("attend", "gradients"):
        counted(exact, name)
    return seen


def run(x: Tensor, real: Tensor | None = None, dropout_p: float = 0.0) -> Tensor:
    leaf = x.requires_grad_()
    out = sp.attention(
        leaf, leaf, leaf, PATTERN, key_mask=real, kernel="tiles", dropout_p=dropout_p
    )
    out[:, :, :3].sum().backward()
    return out.detach()


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_a_finite_call_runs_once(counts: Counter[str], dropout_p: float) -> None:
    run(torch.randn(1, 2, 20, 8), dropout_p=dropout_p)
    assert counts == {"forward": 1, "backward": 1}


def test_so_does_one_with_padded_rows(counts: Counter[str]) -> None:
    run(torch.randn(2, 2, 20, 8), torch.arange(20) < torch.tensor([[20], [7]]))
    assert counts == {"forward": 1, "backward": 1}


def test_large_numbers_that_fit_are_not_repaired_row_by_row(counts: Counter[str]) -> None:
    x = torch.randn(1, 2, 20, 8)
    x[..., 5, 0] = 1e4
    run(x)
    assert counts == {"forward": 1, "backward": 1}


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_only_rows_that_see_infinity_are_computed_one_by_one(
    counts: Counter[str], value: float
) -> None:
    x = torch.randn(1, 2, 20, 8)
    clean = run(x.clone())
    counts.clear()
    x[0, 0, 10, 0] = value
    out = run(x)
    assert counts["attend"] >= 1
    far = [*range(7), *range(14, 20)]
    assert torch.equal(out[:, :, far], clean[:, :, far])
    assert torch.equal(out[:, 1], clean[:, 1])


def test_a_call_of_nothing_but_nan_costs_a_few_runs(counts: Counter[str]) -> None:
    out = run(torch.full((2, 2, 20, 8), math.nan))
    assert out.isnan().all()
    assert counts["attend"] == counts["gradients"] == 0
    assert counts["forward"] <= 8
