"""Who is measured on a GPU: our kernels, dense flash attention, FlexAttention, flash-attn."""

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

import sparse_patterns as sp
from benchmarks.baselines import Unavailable
from benchmarks.contenders import Contender
from benchmarks.cuda.shapes import BATCH, HEADS, CudaShape

DTYPE = torch.bfloat16


def inputs_of(shape: CudaShape, device: str = "cuda") -> tuple[Tensor, Tensor, Tensor]:
    """`q`, `k` and `v` of a shape, laid out as projections leave them: heads inside the length."""
    draw = torch.Generator(device).manual_seed(shape.length)
    size = (3, BATCH, shape.length, HEADS, shape.head_dim)
    made = torch.randn(size, generator=draw, device=device, dtype=DTYPE)
    q, k, v = (x.transpose(1, 2) for x in made)
    return q, k, v


def our_kernels() -> list[str]:
    """The kernels that are made for GPUs."""
    from sparse_patterns.kernels.dispatch import KERNELS

    return [name for name in KERNELS if name not in ("tiles", "dense")]


def ours(shape: CudaShape, kernel: str, device: str = "cuda") -> Contender:
    """One of our kernels.

    Raises:
        Unavailable: it cannot serve the pattern, with its reasons.
    """
    told = sp.explain(
        shape.pattern,
        shape.length,
        heads=HEADS,
        head_dim=shape.head_dim,
        batch=BATCH,
        dtype=DTYPE,
        device=device,
        segment_ids=shape.documents,
        needs_grad=True,
    )
    (verdict,) = [one for one in told.verdicts if one.kernel == kernel]
    if verdict.reasons:
        raise Unavailable("; ".join(verdict.reasons))
    documents = shape.segment_ids(device)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = sp.attention(q, k, v, shape.pattern, segment_ids=documents, kernel=kernel)
        assert isinstance(out, Tensor)
        return out

    return Contender(call, inputs_of(shape, device))


def dense(shape: CudaShape, device: str = "cuda") -> Contender:
    """Torch's flash attention over all pairs: what the ideal is a share of."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    return Contender(call, inputs_of(shape, device))


def flex(shape: CudaShape) -> Contender:
    """FlexAttention as its users write it: a mask function, `create_block_mask`, compiled."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch._dynamo.reset()
    per_head = HEADS if shape.name.startswith(("dilation", "bigbird")) else None
    size = (None, per_head, shape.length, shape.length)
    mask = torch.compile(create_block_mask)(shape.mask_mod("cuda"), *size, device="cuda")
    compiled = torch.compile(flex_attention)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return compiled(q, k, v, block_mask=mask)

    return Contender(call, inputs_of(shape))


def flash_attn(shape: CudaShape) -> Contender:
    """The window of the flash-attn package.

    Raises:
        Unavailable: it is not installed, or has no such pattern.
    """
    sides = {
        "window-256": (256, 256),
        "window-1024": (1024, 1024),
        "causal-1024": (1024, 0),
    }
    if importlib.util.find_spec("flash_attn") is None:
        raise Unavailable("flash-attn is not installed")
    if shape.name not in sides:
        raise Unavailable("flash-attn has windows only")
    from flash_attn import flash_attn_func

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        turned = (x.transpose(1, 2) for x in (q, k, v))
        return flash_attn_func(*turned, window_size=sides[shape.name]).transpose(1, 2)

    return Contender(call, inputs_of(shape))


BASELINES: dict[str, Callable[[CudaShape], Contender]] = {"flex": flex, "flash-attn": flash_attn}
