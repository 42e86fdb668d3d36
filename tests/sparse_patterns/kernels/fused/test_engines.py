"""Whose FlashAttention 2 is called, and what is said where none is there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import sparse_patterns as sp
from sparse_patterns.kernels.dispatch import KERNELS, Explanation
from sparse_patterns.kernels.fused import engines, torch_flash, xformers
from sparse_patterns.kernels.fused.kernel import XformersFusedKernel
from sparse_patterns.kernels.fused.operator import Shape
from sparse_patterns.kernels.fused.torch_flash import TorchFlashOperator
from sparse_patterns.lowering.fused.bands import Band
from tests.contracts.kernels.cases import make_case
from tests.contracts.kernels.emulated import fused
from tests.contracts.kernels.fused_cases import FIXED, SERVED, refusals
from tests.contracts.kernels.holding import hold, request_of
from tests.random_specs import random_case, seeds


@pytest.fixture
def look_again() -> Iterator[None]:
    engines.forget()
    yield
    engines.forget()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, look_again: None) -> Callable[..., None]:
    """Sets which libraries there are, by version; a GPU of capability 9.0 is there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    op = SimpleNamespace(is_available=lambda: True)
    fmha = SimpleNamespace(flash=SimpleNamespace(FwOp=op, BwOp=op))
    monkeypatch.setattr(xformers, "_fmha", lambda library: fmha)

    def install(**versions: str) -> None:
        monkeypatch.setattr(
            xformers.importlib.util, "find_spec", lambda name: versions.get(name) and object()
        )
        monkeypatch.setattr(xformers.importlib.metadata, "version", versions.__getitem__)
        engines.forget()

    return install


def name_of_engine() -> str | None:
    found = engines.engine()
    return None if found is None else found.name


def reasons(device: str = "cuda") -> list[str]:
    request = request_of(make_case(sp.Window(3, 3), 40), torch.bfloat16, device)
    return XformersFusedKernel().why_not(request)


def test_the_first_engine_that_is_there_is_taken(
    installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(xformers="0.0.35", mslk="1.3.0")
    assert name_of_engine() == "xformers"
    installed(mslk="1.3.0")
    assert name_of_engine() == "mslk"
    installed(xformers="0.0.29+cu128", mslk="1.3.0")
    assert name_of_engine() == "mslk"
    installed()
    assert name_of_engine() == "torch"
    assert reasons() == []
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    installed(xformers="0.0.29+cu128")
    [told] = reasons()
    assert told.startswith("no FlashAttention 2 is there: xformers 0.0.29+cu128 is older than")
    assert "mslk is not installed: pip install mslk" in told
    assert f"torch {torch.__version__} is built without FlashAttention 2" in told


def test_a_library_without_the_operators_is_passed_over(
    installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def empty(library: str) -> Any:
        raise ImportError(f"nothing in {library}")

    monkeypatch.setattr(xformers, "_fmha", empty)
    installed(xformers="0.0.36", mslk="1.3.0")
    assert name_of_engine() == "torch"
    assert "nothing in xformers" in str(xformers.missing_library("xformers"))


def test_only_the_device_is_missing_where_torch_has_the_operators(
    monkeypatch: pytest.MonkeyPatch, installed: Callable[..., None]
) -> None:
    installed()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    engines.forget()
    [told] = reasons()
    assert told.startswith("no CUDA device is there")
    assert reasons("cpu") == ["runs on CUDA only, device is cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    engines.forget()
    assert reasons() == ["the GPU has compute capability 7.5, FlashAttention 2 needs 8.0 or more"]


def test_mslk_is_imported_where_it_is_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    fmha = ModuleType("mslk.attention.fmha")
    attention = ModuleType("mslk.attention")
    attention.fmha = fmha  # type: ignore[attr-defined]
    for name, module in (("mslk", ModuleType("mslk")), ("mslk.attention", attention)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "mslk.attention.fmha", fmha)
    xformers._fmha.cache_clear()
    assert xformers._fmha("mslk") is fmha
    xformers._fmha.cache_clear()


VERSIONS = ("2.10.0+cu128", "2.11.0+cu130", "2.13.0+cu130")


@pytest.mark.parametrize("version", VERSIONS)
def test_explain_names_only_what_is_missing(
    version: str, installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparse_patterns.kernels import tuning
    from sparse_patterns.kernels.flex import kernel as flex
    from sparse_patterns.kernels.flex import public

    monkeypatch.setattr(tuning, "known", lambda request, able: None)
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(flex, "find_spec", lambda name: object())
    monkeypatch.setattr(public, "find_spec", lambda name: None)
    installed(xformers="0.0.35")

    def explained() -> Explanation:
        fields = {"heads": 2, "dtype": torch.bfloat16, "device": "cuda", "needs_grad": True}
        return sp.explain(sp.Window(64, 64), 512, **fields)

    def told() -> dict[str, tuple[str, ...]]:
        return {one.kernel: one.reasons for one in explained().verdicts}

    found = told()
    assert "; gradients differ in their last bits from run to run" in str(explained())
    assert found["flex"] == found["xformers_fused"] == ()
    flash = [why for why in found["flex_flash"] if "flash_attn.cute" not in why]
    old = [f"torch {version} has no backend FLASH that takes block masks in both passes"]
    assert [why.partition(":")[0] for why in flash] == (old if version < "2.13" else [])
    # One thing less at a time.
    monkeypatch.setattr(flex, "find_spec", lambda name: None)
    assert told()["flex"] == ("triton is not installed: pip install triton",)
    installed()
    assert told()["xformers_fused"] == ()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    engines.forget()
    [device] = told()["xformers_fused"]
    assert device.startswith("no CUDA device is there")


SHAPES = {
    "window": Shape(Band(5, 3)),
    "everything": Shape(Band(None, None)),
    "causal": Shape(Band(None, 0)),
    "packed window": Shape(Band(4, 2), ((7, 13), (9, 11))),
    "packed causal": Shape(Band(None, 0), ((7, 13), (9, 11))),
}


@pytest.mark.parametrize("name", SHAPES)
def test_torchs_operators_take_the_arguments(name: str) -> None:
    """On no device at all, by the shapes that torch registers for its operators."""
    shape = SHAPES[name]
    batch = 1 if shape.lengths else 2
    size = (batch, 20, 4, 16)
    q = torch.empty(size, dtype=torch.bfloat16, device="meta")
    k, v = torch.empty(2, batch, 20, 2, 16, dtype=torch.bfloat16, device="meta")
    operator = TorchFlashOperator()
    out, lse = operator.forward(q, k, v, shape, 0.3)
    assert (out.shape, lse.shape, lse.dtype) == (size, (batch, 4, 20), torch.float32)
    grads = operator.backward(out, out, lse, q, k, v, shape, 0.3)
    assert [grad.shape for grad in grads] == [q.shape, k.shape, v.shape]


def raw_forward(
    q: Tensor, k: Tensor, v: Tensor, starts_q: Tensor | None, starts_k: Tensor | None, *rest: Any,
    scale: float, window_size_left: int, window_size_right: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    longest_q, longest_k, dropout, causal, _ = rest
    return (
        *fused.raw_forward(
            q, k, v, starts_q, starts_k, None, longest_q, longest_k, dropout, scale, causal,
            window_size_left, window_size_right, False, None,
        ),
        q,
        q,
    )  # fmt: skip


def raw_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    starts_q: Tensor | None, starts_k: Tensor | None, *rest: Any,
    scale: float, window_size_left: int, window_size_right: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    longest_q, longest_k, dropout, causal, state, _ = rest
    return fused.raw_backward(
        False, grad, q, k, v, out, lse, starts_q, starts_k, longest_q, longest_k, dropout, scale,
        causal, window_size_left, window_size_right, state,
    )  # fmt: skip


@pytest.fixture
def on_torch(monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernel on torch's operators, emulated by their signatures."""
    ops = SimpleNamespace(
        aten=SimpleNamespace(
            _flash_attention_forward=raw_forward, _flash_attention_backward=raw_backward
        )
    )
    emulated = SimpleNamespace(**{**vars(torch), "ops": ops})
    monkeypatch.setattr(torch_flash, "torch", emulated)
    kernel = fused.EmulatedFused(TorchFlashOperator())
    monkeypatch.setitem(KERNELS, kernel.name, kernel)
    return kernel.name


EVERY_DAY = ("documents", "right padding, dilated", "causal documents, cached keys", "odd heads")


@pytest.mark.parametrize(
    "name", [*EVERY_DAY, *(pytest.param(one, marks=pytest.mark.long) for one in FIXED)]
)
def test_torchs_operators_run_every_partial(on_torch: str, name: str) -> None:
    case = FIXED[name]
    if not refusals(case):
        hold(on_torch, case, torch.float64)


@pytest.mark.parametrize("number", seeds(60, every_day=4))
def test_torchs_operators_run_random_specs(on_torch: str, number: int) -> None:
    hold(on_torch, random_case(SERVED[number]), torch.float64, lse=number % 2 > 0)


def test_where_packed_sequences_start_is_made_once() -> None:
    shape = Shape(Band(4, 2), ((7, 13), (9, 11)))
    (rows, keys), longest = torch_flash.packed_starts(shape, torch.device("cpu"))
    assert (rows.tolist(), keys.tolist(), longest) == ([0, 7, 20], [0, 9, 20], [13, 11])
    assert torch_flash.packed_starts(shape, torch.device("cpu"))[0][0] is rows
