"""The model's own eager attention under its own mask and that of a pattern."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

import sparse_patterns as sp

NAME = "eager_under_a_pattern"


def _repeat(x: Tensor, heads: int) -> Tensor:
    return x.repeat_interleave(heads // x.shape[1], 1)


def _plain(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: Any = None, **_: Any
) -> tuple[Tensor, None]:
    """For modules whose file has no eager attention of its own."""
    k, v = _repeat(k, q.shape[1]), _repeat(v, q.shape[1])
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scaling is None else scaling) + mask
    return (scores.softmax(-1) @ v).transpose(1, 2), None


@contextlib.contextmanager
def with_reference(model: Any, pattern: sp.Pattern) -> Iterator[None]:
    """Within, a model that `set_pattern` was called on runs the reference."""

    def attend(
        module: Any, q: Tensor, k: Tensor, v: Tensor, attention_mask: Any, **given: Any
    ) -> Any:
        place = module._sparse_pattern
        seen = sp.dense_mask(
            pattern,
            q.shape[2],
            k.shape[2],
            heads=q.shape[1],
            layer=place.layer or 0,
            layers=place.layers,
        )
        own = 0 if attention_mask is None else attention_mask
        mask = (
            own
            + torch.zeros(seen.shape, dtype=q.dtype).masked_fill(~seen, torch.finfo(q.dtype).min)[
                None
            ]
        )
        mask = mask.clamp(min=torch.finfo(q.dtype).min)
        eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", _plain)
        return eager(module, q, k, v, mask, **given)

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
