"""Torch's fused operator over strips, against the products of our own."""

from __future__ import annotations

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.tiles.fused import forward as fused

DOCUMENTS = torch.arange(300).div(70, rounding_mode="floor").expand(2, -1)
REAL = torch.arange(300).expand(2, -1) < torch.tensor([[300], [130]])
CASES = {
    "window": (sp.Window(40, 40), {}),
    "dilated heads": (sp.Window(9, 9, (1, 1, 2, 5)), {}),
    "padding": (sp.Window(5, 5) | sp.Global((0,)), {"key_mask": REAL}),
    "documents": (
        (sp.Window(40, 0) | sp.BatchGlobal()) & sp.SameDocument(),
        {"segment_ids": DOCUMENTS, "key_mask": REAL, "global_mask": DOCUMENTS == 3},
    ),
    "blocks": (sp.get("bigbird", block=16), {}),
}


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("name", CASES)
def test_operator_and_products_agree(
    name: str, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern, masks = CASES[name]
    q, k, v = torch.randn(2, 8 + kv_heads, 300, 16, dtype=torch.float64).split([4, 4, kv_heads], 1)
    k = k[:, :kv_heads]

    def run() -> tuple[torch.Tensor, ...]:
        return sp.attention(q, k, v, pattern, kernel="tiles", return_lse=True, **masks)

    called = []
    attend = fused.attend
    monkeypatch.setattr(fused, "attend", lambda *given: (called.append(1), attend(*given)))
    by_operator = run()
    assert called
    monkeypatch.setattr(fused, "serves", lambda call: False)
    for found, expected in zip(by_operator, run(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_dropout_is_by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "attend", None)
    x = torch.randn(1, 2, 40, 8)
    sp.attention(x, x, x, sp.Window(3, 3), kernel="tiles", dropout_p=0.5)


def test_heads_come_in_turns_that_share_keys() -> None:
    slices = [list(range(8))[some] for some in fused.heads_at_once((0, 1, 2, 3, 5), 2, 10)]
    assert slices == [[0, 1], [2, 3], [5]]
    most = fused.ELEMENTS_AT_ONCE
    slices = [list(range(8))[some] for some in fused.heads_at_once((2, 3, 4, 6), 1, most // 2)]
    assert slices == [[2, 3], [4], [6]]
