"""The tiled kernel keeps the contract of kernels where threads share its heads, in any call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels import threads
from sparse_patterns.kernels.tiles import heads
from sparse_patterns.spec.base import uses
from tests.contracts.kernels.cases import HARD, make_case
from tests.contracts.kernels.holding import hold, hold_random
from tests.contracts.kernels.scored import CHANGES, hold_scores
from tests.random_specs import seeds


@pytest.fixture(autouse=True, params=[2, 5])
def several_threads(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.setattr(threads, "LEAST", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("seed", seeds(320, every_day=20))
def test_random_specs(seed: int) -> None:
    hold_random("tiles", "cpu", seed)


@pytest.mark.parametrize("name", HARD)
def test_hard_shapes(name: str) -> None:
    hold("tiles", HARD[name], torch.float64, "cpu")
    hold_scores("tiles", HARD[name], CHANGES, learned_bias=True)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("name", sp.names())
def test_presets(name: str, kv_heads: int) -> None:
    pattern = sp.get(name)
    marks = torch.zeros(2, 301, dtype=torch.bool)
    marks[0, [0, 7, 300]] = True
    fields = {"global_mask": marks} if uses(pattern, sp.BatchGlobal) else {}
    case = make_case(pattern, 301, layer=11, layers=12, kv_heads=kv_heads, **fields)
    hold("tiles", case, torch.float32, "cpu")


@pytest.mark.parametrize("inference", [False, True])
def test_heads_are_computed_on_other_threads(
    inference: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    shared = threads.share_out

    def record(tasks, compute, workers):
        asked.append((len(tasks), workers))
        shared(tasks, compute, workers)

    monkeypatch.setattr(heads, "share_out", record)
    q, k, v = torch.randn(3, 2, 4, 50, 8).requires_grad_(not inference)
    with torch.inference_mode(inference):
        out = sp.attention(q, k, v, sp.Window(3, 3), kernel="tiles", softcap=5.0)
    if not inference:
        out.sum().backward()
    count = torch.get_num_threads()
    passes = 1 if inference else 2
    assert len(asked) == passes
    assert all(workers == min(count, tasks) > 1 for tasks, workers in asked)


def test_dropout_is_that_of_one_thread() -> None:
    def run() -> list[torch.Tensor]:
        torch.manual_seed(7)
        leaves = [x.requires_grad_() for x in torch.randn(3, 2, 4, 60, 8, dtype=torch.float64)]
        out = sp.attention(*leaves, sp.Window(9, 9), kernel="tiles", dropout_p=0.3)
        return [out, *torch.autograd.grad(out.square().sum(), leaves)]

    found = run()
    torch.set_num_threads(1)
    for some, expected in zip(found, run(), strict=True):
        torch.testing.assert_close(some, expected, rtol=1e-12, atol=1e-12)
