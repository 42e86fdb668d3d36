"""The lists of blocks of a call, made once for all calls with equal masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparse_patterns.kernels.base import Call
from sparse_patterns.lowering.blocks.lists import SIZE, BlockLists, block_lists, intervals
from sparse_patterns.lowering.plan import Plan


def lists_of(call: Call, plan: Plan, uniform: bool) -> BlockLists:
    """Return the lists of a call, made once for all calls with equal masks."""
    examples = call.examples
    here = examples.on_cpu()
    by_masks = any(group.forms.takes_example_tensors for group in plan.groups)
    real = here.key_mask
    if real is None and call.key_mask is not None:
        # A batch without padding gets tensors of the same shapes as one with: nothing to compile.
        real = torch.ones(here.batch, here.kv_len, dtype=torch.bool, device="cpu")
    by_example = by_masks or real is not None

    def make() -> BlockLists:
        tables = [
            [examples.blocks(group, example, SIZE) for group in plan.groups]
            for example in range(here.batch if by_example else 1)
        ]
        return _join(plan, tables, here.batch, uniform, real).to(examples.device)

    return examples.keep(("flex", plan, uniform, real is None), make)


def _join(
    plan: Plan, tables: list[list[Any]], batch: int, uniform: bool, key_mask: Tensor | None
) -> BlockLists:
    q = torch.arange(plan.q_len, device="cpu") + plan.q_offset
    ends = [intervals(group.pattern, q, plan.kv_len) for group in plan.groups]
    group_of_head = torch.zeros(1 if uniform else plan.heads, dtype=torch.int64, device="cpu")
    if not uniform:
        for number, group in enumerate(plan.groups):
            group_of_head[list(group.heads)] = number
    return block_lists(tables, ends, group_of_head, (batch, plan.heads), plan.kv_len, key_mask)
