"""What is counted of a call is what the kernel does: calls of the operator, pieces and pairs."""

from collections import Counter

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.base import Request
from sparse_patterns.kernels.dispatch import KERNELS
from sparse_patterns.kernels.tiles import passes
from sparse_patterns.kernels.tiles.fused import forward as fused
from sparse_patterns.kernels.tiles.work import least_work_of, work_of

WINDOW = sp.Window(9, 9)
CASES = {
    "window": (WINDOW, {}),
    "batch": (WINDOW, {"batch": 3}),
    "shared keys": (WINDOW, {"kv_heads": 2}),
    "globals": (WINDOW | sp.Global((0,)), {"batch": 2}),
    "groups": (sp.PerHead(WINDOW, sp.Window(30, 0), rest=True), {"batch": 2}),
    "bigbird": (sp.get("bigbird", block=16), {}),
    "grid": (sp.GridWindow((10, 20), 3), {"batch": 2}),
    "strided": (sp.get("sparse-transformer-strided", stride=16), {}),
    "dilated": (sp.Window(9, 9, dilation=3), {}),
    "dropout": (WINDOW | sp.Global((0,)), {"dropout_p": 0.1, "batch": 2}),
    "softcap": (sp.get("streaming", window=20), {"softcap": True}),
    "half": (WINDOW, {"dtype": torch.bfloat16}),
}


def request(pattern: sp.Pattern, **fields: object) -> Request:
    own = dict(batch=1, heads=4, kv_heads=4, head_dim=8, dtype=torch.float32, needs_grad=True)
    shape = dict(layer=0, layers=1, q_len=200, kv_len=200, q_offset=0, device="cpu")
    return Request(pattern, **{**shape, **own, **fields})


@pytest.mark.parametrize("name", CASES)
def test_work_is_what_is_done(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern, fields = CASES[name]
    asked = request(pattern, **fields)
    done: Counter[str] = Counter()
    add, scores = fused._add, passes._scores

    def spy_add(q, k, v, run, *rest):
        done["strip"] += 1
        done["pair"] += q.shape[0] * run.pairs
        add(q, k, v, run, *rest)

    def spy_scores(piece, *rest):
        found = scores(piece, *rest)
        kind = "back" if done["backward"] else "own"
        done[f"{kind} piece"] += 1
        done[f"{kind} pair"] += found.numel()
        return found

    monkeypatch.setattr(fused, "_add", spy_add)
    monkeypatch.setattr(passes, "_scores", spy_scores)
    draw = torch.Generator().manual_seed(0)
    shape = (asked.batch, asked.heads, asked.q_len, asked.head_dim)
    q = torch.randn(shape, generator=draw).to(asked.dtype).requires_grad_()
    k = torch.randn(shape, generator=draw).to(asked.dtype)[:, : asked.kv_heads].contiguous()
    softcap = 50.0 if asked.softcap else None
    out = sp.attention(q, k, k, pattern, kernel="tiles", dropout_p=asked.dropout_p, softcap=softcap)
    done["backward"] = 1
    out.sum().backward()
    counted = work_of(asked, asked.plan)
    for kind in ("strip", "pair", "own piece", "own pair", "back piece", "back pair"):
        assert counted.get(kind, 0) == done[kind], kind


def test_the_bound_is_below_the_estimate() -> None:
    for pattern in (sp.Full(), sp.Causal(), WINDOW, sp.Window(9, 9, dilation=3), sp.Window(300, 0)):
        for fields in ({}, {"batch": 3}, {"needs_grad": False}, {"dropout_p": 0.1}):
            for length in (200, 1000):
                asked = request(pattern, q_len=length, kv_len=length, head_dim=64, **fields)
                kernel = KERNELS["tiles"]
                bound = kernel.at_least(asked, asked.plan)
                assert 0 < bound < kernel.seconds(asked, asked.plan)
    union = request(WINDOW | sp.Global((0,)))
    assert least_work_of(union, union.plan) == {}
