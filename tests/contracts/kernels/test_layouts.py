"""Results do not depend on how tensors lie in memory, in any kernel, forward and in gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sparse_patterns as sp
from sparse_patterns.kernels.dispatch import KERNELS
from tests.contracts.kernels.emulated.flex import EmulatedFlex
from tests.contracts.kernels.emulated.fused import EmulatedFused

PATTERN = sp.PerHead(sp.Window(9, 3), sp.Window(9, 3, 2)) | sp.Global((0,))


def wide(x: Tensor) -> Tensor:
    """Elements two apart."""
    return torch.stack([x, -x], -1).flatten(-2)[..., ::2]


def shifted(x: Tensor) -> Tensor:
    """One element after where memory is aligned."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "heads inside the length": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "length last": lambda x: x.mT.contiguous().mT,
    "batch last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "heads last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "part of a projection": lambda x: torch.cat([x, x, x], -1)[..., x.shape[-1] : -x.shape[-1]],
    "wide": wide,
    "shifted": shifted,
    "one example for all": lambda x: x[:1].expand_as(x),
    "one head for all": lambda x: x[:, :1].expand_as(x),
    "one position for all": lambda x: x[:, :, :1].expand_as(x),
}


@pytest.fixture(autouse=True)
def emulations(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Put emulations in place of the kernels for GPUs, in tests on the CPU."""
    if request.node.get_closest_marker("cuda"):
        return
    import torch.nn.attention.flex_attention as library

    monkeypatch.setattr(library, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setitem(KERNELS, "flex", EmulatedFlex(None))
    monkeypatch.setitem(KERNELS, "xformers_fused", EmulatedFused())


def run(kernel: str, tensors: list[Tensor], upstream: Tensor) -> list[Tensor]:
    """Output and gradients; the tensors keep their layout as leaves."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    for leaf, x in zip(leaves, tensors, strict=True):
        assert leaf.stride() == x.stride()
    out = sp.attention(*leaves[:3], PATTERN, global_qkv=tuple(leaves[3:]) or None, kernel=kernel)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


@pytest.mark.parametrize(
    ("kernel", "device"),
    # The backend "FLASH" has no emulation; what is around it is that of `flex`.
    [pytest.param(name, "cpu", id=name) for name in sorted(KERNELS) if name != "flex_flash"]
    + [
        pytest.param(name, "cuda", id=f"{name}-cuda", marks=pytest.mark.cuda)
        for name in sorted(KERNELS)
    ],
)
@pytest.mark.parametrize(
    "own",
    [
        pytest.param(False, id="one projection", marks=pytest.mark.long),
        pytest.param(True, id="global_qkv"),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(kernel: str, device: str, own: bool, layout: str) -> None:
    allowed = KERNELS[kernel].tolerances
    dtype = torch.float32 if torch.float32 in allowed else torch.bfloat16
    limit = allowed[dtype].gradient
    heads = [2, 1, 1, 2, 1, 1] if own else [2, 1, 1]
    length = 40 if own else 128  # filled up to whole blocks, and whole blocks
    plain = [torch.randn(2, count, length, 8, device=device, dtype=dtype) for count in heads]
    plain.append(torch.randn_like(plain[0]))
    # Of each tensor alone, and of all at once.
    for number in (None,) if own else (*range(len(plain)), None):
        changed = [LAYOUTS[layout](x) if number in (i, None) else x for i, x in enumerate(plain)]
        found = run(kernel, changed[:-1], changed[-1])
        expected = run(kernel, [x.contiguous() for x in changed[:-1]], changed[-1].contiguous())
        for a, b in zip(found, expected, strict=True):
            assert a.shape == b.shape
            assert float((a - b).abs().max()) <= limit * max(1, float(b.abs().max()))
