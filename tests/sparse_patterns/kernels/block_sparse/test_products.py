"""Products over visible blocks: half types have sums in float32, and a GPU is not waited for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import sparse_patterns as sp
from sparse_patterns.kernels.block_sparse import library, passes, products
from sparse_patterns.kernels.dispatch import KERNELS
from tests.contracts.kernels.cases import make_case
from tests.contracts.kernels.holding import hold, request_of

BLOCK, DIM = 16, 32
ROW, COLUMN = torch.tensor([0, 0, 2]), torch.tensor([1, 2, 0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_are_not_rounded_to_a_half_type(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 3 * BLOCK, DIM, generator=generator).to(dtype) for _ in range(2))
    found = products.scores(a, b, ROW, COLUMN, BLOCK)
    whole = (a.double() @ b.double().mT).view(2, 3, BLOCK, 3, BLOCK).transpose(2, 3)
    want = whole[:, ROW, COLUMN]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), want, rtol=0, atol=2e-5)
    total = products.apply(found, b, ROW, COLUMN, 3)
    rounded = found.to(dtype).double()
    dense = torch.zeros(2, 3, 3, BLOCK, BLOCK, dtype=torch.float64)
    dense[:, ROW, COLUMN] = rounded
    dense = dense.transpose(2, 3).reshape(2, 3 * BLOCK, 3 * BLOCK)
    torch.testing.assert_close(total.double(), dense @ b.double(), rtol=1e-5, atol=2e-4)
    # The middle row of blocks sees nothing.
    assert not total[:, BLOCK : 2 * BLOCK].any()


def test_a_gpu_multiplies_half_types_as_half_types() -> None:
    with FakeTensorMode():
        a, b = torch.empty(2, 5, 16, 16, dtype=torch.bfloat16, device="cuda")
        assert products.product(a, b).dtype == torch.float32


def test_the_library_is_not_asked_for_half_types(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(passes, "library", asked)
    x = torch.randn(1, 2, 40, 8, dtype=torch.bfloat16, requires_grad=True)
    out = sp.attention(x, x, x, sp.Window(5, 5), kernel="xformers_blocks")
    assert isinstance(out, torch.Tensor)
    out.sum().backward()
    y = x.detach().float()
    with pytest.raises(AssertionError, match="asked"):
        sp.attention(y, y, y, sp.Window(5, 5), kernel="xformers_blocks")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gpu_asks_the_library_for_nothing(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """There it looks its layout up at every product; the kernel's own products give the same."""
    assert not passes.uses_library(dtype, "cuda")
    case = make_case(sp.Window(9, 4, (1, 1, 2, 3)) | sp.Global((0, 50)), 97)
    monkeypatch.setattr(passes, "uses_library", lambda dtype, device: False)
    monkeypatch.setattr(passes, "library", None)
    hold("xformers_blocks", case, dtype)


@pytest.fixture
def searched_anew() -> Iterator[None]:
    library.missing.cache_clear()
    yield
    library.missing.cache_clear()


@pytest.mark.usefixtures("searched_anew")
def test_it_serves_a_gpu_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    kernel = KERNELS["xformers_blocks"]
    case = make_case(sp.RandomBlocks(16, 2), 97)
    for dtype in (torch.bfloat16, torch.float32):
        assert kernel.why_not(request_of(case, dtype, "cuda")) == []
    [reason] = kernel.why_not(request_of(case, torch.float32, "cpu"))
    assert reason.startswith("xformers is not installed")
