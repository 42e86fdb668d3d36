"""Dispatch: the fastest by declared rates, a named one honoured or refused, every reason told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.block_sparse import library as xformers_blocks
from sparse_patterns.kernels.dispatch import KERNELS
from sparse_patterns.kernels.flex import kernel as flex
from sparse_patterns.lowering import forms

LONG = sp.Window(256, 256)


def test_auto_takes_the_mask_for_short_and_tiles_for_long() -> None:
    assert sp.explain(LONG, 64, heads=12).chosen == "sdpa"
    assert sp.explain(LONG, 64, heads=12, dropout_p=0.1).chosen == "dense"
    assert sp.explain(LONG, 8192, heads=12).chosen == "tiles"


@pytest.mark.parametrize("pattern", [sp.Full(), sp.Causal(), sp.Window(9000, 9000)], ids=repr)
@pytest.mark.parametrize("length", [128, 1024, 8192])
def test_auto_takes_torchs_attention_for_what_it_is_made_for(
    pattern: sp.Pattern, length: int
) -> None:
    assert sp.explain(pattern, length, heads=12).chosen == "sdpa"


def test_explanation_prints_every_kernel() -> None:
    told = sp.explain(LONG, 4096, heads=12)
    lines = str(told).splitlines()
    assert lines[0] == "Window(256, 256)"
    assert "4096 queries x 4096 keys, 12 heads in 1 group" in lines[1]
    assert "sees 256 back and 256 forward" in lines[2]
    for verdict in told.verdicts:
        (line,) = [line for line in lines if line.startswith(f"  {verdict.kernel} ")]
        assert ("chosen" in line) == (told.chosen == verdict.kernel)
        assert ("ms forward" in line) == (not verdict.reasons)
        assert all(reason in line for reason in verdict.reasons)
    assert [verdict.kernel for verdict in told.verdicts] == list(KERNELS)


def test_reasons_are_told() -> None:
    told = sp.explain(LONG, 64, heads=2, dtype=torch.float8_e4m3fn)
    assert told.chosen is None
    for verdict in told.verdicts:
        reasons = "; ".join(verdict.reasons)
        assert "dtype float8_e4m3fn is not one of" in reasons or "runs on CUDA only" in reasons
    x = torch.zeros(1, 1, 4, 8).to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=r"kernel 'tiles' cannot serve this call: dtype float8"):
        sp.attention(x, x, x, LONG, kernel="tiles")
    with pytest.raises(ValueError, match=r"no kernel can serve this call: tiles: dtype float8"):
        sp.attention(x, x, x, LONG)


def test_unknown_kernel_is_refused() -> None:
    x = torch.zeros(1, 1, 4, 8)
    names = ", ".join(KERNELS)
    with pytest.raises(
        ValueError, match=f"kernel must be 'auto', 'tune' or one of {names}, got 'fast'"
    ):
        sp.attention(x, x, x, LONG, kernel="fast")
    with pytest.raises(ValueError, match=f"'tune' or one of {names}, got 'fast'"):
        sp.explain(LONG, 64, heads=2, kernel="fast")


def test_a_named_kernel_is_explained() -> None:
    told = sp.explain(LONG, 64, heads=2, kernel="xformers_blocks")
    assert told.chosen == "xformers_blocks"
    assert sp.explain(LONG, 64, heads=2, kernel="flex").chosen is None


@pytest.fixture
def searched_anew() -> Iterator[None]:
    xformers_blocks.missing.cache_clear()
    yield
    xformers_blocks.missing.cache_clear()


@pytest.mark.usefixtures("searched_anew")
def test_what_is_missing_is_told_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xformers_blocks, "find_spec", lambda name: None)
    monkeypatch.setattr(flex, "find_spec", lambda name: None)
    monkeypatch.setattr(torch, "__version__", "2.10.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = str(sp.explain(LONG, 4096, heads=2))
    assert "runs on CUDA only, not on 'cpu'" in here
    assert "xformers is not installed: pip install 'xformers>=0.0.35'" in here
    told = str(sp.explain(LONG, 4096, heads=2, device="cuda"))
    assert "triton is not installed: pip install triton" in told
    assert "torch 2.10.0 finds no CUDA device" in told
    assert "pip install 'torch>=2.13'" in told
    assert "torch 2.10.0 finds no CUDA device: it takes an NVIDIA GPU" in told
    x = torch.zeros(1, 1, 4, 8)
    with pytest.raises(ValueError, match=r"kernel 'xformers_blocks' cannot .* pip install"):
        sp.attention(x, x, x, LONG, kernel="xformers_blocks")


@pytest.mark.usefixtures("searched_anew")
def test_an_xformers_without_the_class_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(xformers_blocks, "find_spec", lambda name: spec)
    monkeypatch.setattr(xformers_blocks.metadata, "version", lambda name: "0.9.9")
    told = str(sp.explain(LONG, 4096, heads=2))
    assert "xformers 0.9.9 has no xformers.sparse.BlockSparseTensor: pip install" in told


@pytest.mark.parametrize("name", ["tiles", "dense", "sdpa", "xformers_blocks"])
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


def test_no_table_of_blocks_is_made_to_choose_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise AssertionError("a table of blocks was made")

    monkeypatch.setattr(forms, "blocks", fail)
    # A pattern that no other test has, so that nothing of it was made before.
    told = sp.explain(sp.get("bigbird") & sp.Window(701, 700), 2048, heads=2)
    assert told.chosen == "tiles"
    (blocks,) = [one for one in told.verdicts if one.kernel == "xformers_blocks"]
    assert blocks.seconds is not None


def test_a_choice_is_made_once_for_equal_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for name, kernel in KERNELS.items():

        def spy(request, made, name=name, plain=kernel.seconds):
            asked.append(name)
            return plain(request, made)

        monkeypatch.setattr(kernel, "seconds", spy)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 37, 8, generator=draw)
    sp.attention(x, x, x, sp.Window(5, 2))
    first = len(asked)
    assert first > 1
    sp.attention(x, x, x, sp.Window(5, 2))
    assert len(asked) == first
    sp.attention(x.bfloat16(), x.bfloat16(), x.bfloat16(), sp.Window(5, 2))
    assert len(asked) > first


def test_a_kernel_that_cannot_be_the_fastest_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> float:
        raise AssertionError("its estimate was asked for")

    monkeypatch.setattr(KERNELS["tiles"], "seconds", fail)
    monkeypatch.setattr(KERNELS["tiles"], "at_least", lambda request, made: 1e6)
    x = torch.zeros(1, 2, 38, 8)
    sp.attention(x, x, x, sp.Causal())
