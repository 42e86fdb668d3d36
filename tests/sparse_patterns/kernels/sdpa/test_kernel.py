"""Torch's attention: which patterns need no mask, what is refused, and examples taken in turns."""

from __future__ import annotations

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.dispatch import KERNELS
from sparse_patterns.kernels.sdpa import kernel as sdpa
from sparse_patterns.kernels.sdpa import operator
from tests.contracts.kernels.cases import make_case
from tests.contracts.kernels.holding import request_of
from tests.random_specs import random_case, seeds


def kind(pattern: sp.Pattern, q_len: int, kv_len: int | None = None, **fields) -> str:
    return sdpa.kind_of(sp.plan(pattern, q_len, kv_len, heads=2, **fields))


@pytest.mark.parametrize(
    ("pattern", "q_len", "kv_len", "q_offset", "expected"),
    [
        (sp.Full(), 20, 30, 10, "full"),
        (sp.Window(19, 19), 20, 20, 0, "full"),
        (sp.Window(18, 19), 20, 20, 0, "masked"),
        (sp.Window((19, 25), 19), 20, 20, 0, "full"),
        (sp.Window((19, 3), 19), 20, 20, 0, "masked"),
        (sp.Window(19, 19) | sp.BatchGlobal(), 20, 20, 0, "full"),
        (sp.Window(19, 19) | sp.Global((3,)), 20, 20, 0, "full"),
        (sp.Full() & sp.SameDocument(), 20, 20, 0, "masked"),
        (sp.Window(5, 5) | sp.Global((3,)), 20, 20, 0, "masked"),
        (sp.Causal(), 20, 20, 0, "causal"),
        (sp.Window(19, 0), 20, 20, 0, "causal"),
        (sp.Window(18, 0), 20, 20, 0, "masked"),
        (sp.Causal(), 20, 30, 0, "causal"),
        (sp.Causal(), 30, 20, 0, "causal"),
        (sp.Causal(), 20, 30, 10, "masked"),
        (sp.Causal() | sp.BatchGlobal(), 20, 20, 0, "masked"),
        (sp.Window(0, 19), 20, 20, 0, "masked"),
        (~sp.Full(), 20, 20, 0, "masked"),
        (sp.Full(), 0, 20, 20, "masked"),
    ],
)
def test_a_mask_is_made_only_where_it_is_needed(
    pattern: sp.Pattern, q_len: int, kv_len: int, q_offset: int, expected: str
) -> None:
    assert kind(pattern, q_len, kv_len, q_offset=q_offset) == expected


@pytest.mark.parametrize("seed", seeds(200, every_day=40))
def test_what_needs_no_mask_is_what_the_oracle_says(seed: int) -> None:
    case = random_case(seed)
    names = ("layer", "layers", "q_offset")
    fields = {name: getattr(case, name) for name in names}
    made = sp.plan(case.pattern, case.q_len, case.kv_len, heads=case.heads, **fields)
    found = sdpa.kind_of(made)
    if found == "masked":
        return
    arguments = {**case.mask_arguments(), "key_mask": None}
    seen = sp.dense_mask(case.pattern, case.q_len, case.kv_len, **arguments)
    want = torch.ones(case.q_len, case.kv_len, dtype=torch.bool)
    want = want.tril() if found == "causal" else want
    assert torch.equal(seen, want.expand_as(seen)), case


def test_dropout_and_other_devices_are_refused() -> None:
    (reason,) = sp.explain(sp.Full(), 20, heads=2, dropout_p=0.1, kernel="sdpa").verdicts[2].reasons
    assert "no dropout" in reason
    x = torch.zeros(1, 2, 4, 8)
    with pytest.raises(ValueError, match=r"kernel 'sdpa' cannot serve this call: .* no dropout"):
        sp.attention(x, x, x, sp.Full(), dropout_p=0.1, kernel="sdpa")
    reasons = sp.explain(sp.Full(), 20, heads=2, device="cuda", kernel="sdpa").verdicts[2].reasons
    assert "runs on the CPU only, not on 'cuda'" in reasons
    told = sp.explain(sp.Full(), 20, heads=2, device="mps", needs_grad=True)
    assert "torch's attention for MPS gives no log-sum-exp" in told.verdicts[2].reasons[0]
    assert told.chosen in ("dense", "tiles")


@pytest.mark.parametrize(
    ("pattern", "length", "dtype", "expected"),
    [
        (sp.Window(2000, 2000), 4096, torch.float32, None),
        (
            sp.Window(2000, 2000),
            4097,
            torch.bfloat16,
            "its masks would take 64 MiB, and 64 MiB are allowed",
        ),
        (sp.Window(2000, 2000), 4096, torch.float64, "its masks would take 128 MiB"),
        (sp.Window((2000, 1000), 9), 4096, torch.float32, "its masks would take 128 MiB"),
        (sp.Full() & sp.SameDocument(), 16384, torch.float32, "its masks would take 1024 MiB"),
        (sp.Full(), 1 << 20, torch.float32, None),
        (sp.Causal(), 1 << 20, torch.float32, None),
    ],
)
def test_a_mask_that_takes_much_memory_is_refused(
    pattern: sp.Pattern, length: int, dtype: torch.dtype, expected: str | None
) -> None:
    case = make_case(pattern, length, heads=2)
    reasons = KERNELS["sdpa"].why_not(request_of(case, dtype, "cpu"))
    if expected is None:
        assert reasons == []
    else:
        (reason,) = reasons
        assert reason.startswith(expected)


def test_how_many_examples_are_taken_at_once_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = [torch.randn(5, 2, 20, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    segments = torch.randint(0, 3, (5, 20)).sort(-1).values
    pattern = sp.Window(4, 4) & sp.SameDocument()
    calls: list[int] = []
    plain = operator.forward
    monkeypatch.setattr(
        operator, "forward", lambda q, *more: calls.append(q.shape[0]) or plain(q, *more)
    )
    results = []
    for size, shares in ((1, [1] * 5), (2 * 20 * 20, [2, 2, 1]), (1 << 22, [5])):
        calls.clear()
        monkeypatch.setattr(sdpa, "MASK_AT_ONCE", size)
        out = sp.attention(*given, pattern, segment_ids=segments, kernel="sdpa")
        assert calls == shares
        results.append((out, *torch.autograd.grad(out.square().sum(), given)))
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-14)


def test_a_mask_of_the_pattern_alone_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    plain = torch.Tensor.masked_fill_
    x = torch.randn(2, 2, 20, 8)
    pattern = sp.Window(4, 3)
    sp.attention(x, x, x, pattern, kernel="sdpa")
    monkeypatch.setattr(
        torch.Tensor, "masked_fill_", lambda self, *more: made.append(0) or plain(self, *more)
    )
    sp.attention(x, x, x, pattern, kernel="sdpa")
    assert not made
    # The same pattern in another type has a mask of its own: the operator misreads another's.
    double = sp.attention(*[x.double()] * 3, pattern, kernel="sdpa")
    want = sp.attention(*[x.double()] * 3, pattern, kernel="dense")
    torch.testing.assert_close(double, want, rtol=0, atol=1e-14)
