"""Dispatch: the fastest by declared rates, a named one honoured or refused, every reason told."""

from __future__ import annotations

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.dispatch import KERNELS

LONG = sp.Window(256, 256)


def test_auto_takes_dense_for_short_and_tiles_for_long() -> None:
    assert sp.explain(LONG, 64, heads=12).chosen == "dense"
    assert sp.explain(LONG, 8192, heads=12).chosen == "tiles"
    assert sp.explain(sp.Full(), 128, heads=12).chosen == "dense"


def test_explanation_prints_every_kernel() -> None:
    told = sp.explain(LONG, 4096, heads=12)
    lines = str(told).splitlines()
    assert lines[0] == "Window(256, 256)"
    assert "4096 queries x 4096 keys, 12 heads in 1 group" in lines[1]
    assert "sees 256 back and 256 forward" in lines[2]
    for kernel in KERNELS:
        (line,) = [line for line in lines if line.startswith(f"  {kernel} ")]
        assert ("chosen" in line) == (told.chosen == kernel)
        assert ("ms forward" in line) == ("possible" in line or "chosen" in line)
    assert [verdict.kernel for verdict in told.verdicts] == list(KERNELS)


def test_reasons_are_told() -> None:
    told = sp.explain(LONG, 64, heads=2, dtype=torch.float8_e4m3fn)
    assert told.chosen is None
    for verdict in told.verdicts:
        if verdict.kernel in ("tiles", "dense"):
            assert "dtype float8_e4m3fn is not one of" in verdict.reasons[0]
    x = torch.zeros(1, 1, 4, 8).to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=r"kernel 'tiles' cannot serve this call: dtype float8"):
        sp.attention(x, x, x, LONG, kernel="tiles")
    with pytest.raises(ValueError, match=r"no kernel can serve this call: tiles: dtype float8"):
        sp.attention(x, x, x, LONG)


def test_unknown_kernel_is_refused() -> None:
    x = torch.zeros(1, 1, 4, 8)
    with pytest.raises(
        ValueError, match=r"kernel must be 'auto' or one of tiles, dense, .*got 'fast'"
    ):
        sp.attention(x, x, x, LONG, kernel="fast")


@pytest.mark.parametrize("name", ["tiles", "dense"])
def test_explicit_kernel_is_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    for other, kernel in KERNELS.items():
        plain = kernel.forward

        def spy(call, made, other=other, plain=plain):
            used.append(other)
            return plain(call, made)

        monkeypatch.setattr(kernel, "forward", spy)
    x = torch.zeros(1, 1, 4, 8)
    sp.attention(x, x, x, LONG, kernel=name)
    assert used == [name]
