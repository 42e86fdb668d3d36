"""Do all processes of a group make the same call? Asked before anything else travels.

A process that makes another call, or that refuses its arguments, would leave the others waiting.
Here each says what it is about to do, so that all of them stop with one error.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Any

import torch
from torch import distributed

from sparse_patterns.distributed.exchange import told
from sparse_patterns.spec.base import Pattern

KEY_MASK, GLOBAL_MASK, REFUSED = 1, 2, 4
"""Bits of what a process says besides its call and its length."""


@lru_cache(maxsize=64)
def text_of(pattern: Pattern) -> str:
    """Return what a pattern says in every process; rules are known by name."""
    return repr(pattern)


def agree(
    call: str, length: int, flags: int, device: torch.device, group: Any
) -> tuple[list[int], int]:
    """Return the length of each rank, and the flags that any rank set.

    Args:
        call: All that must be equal, as text; or with `REFUSED` the message of the error.
        length: Tokens of this rank.
        flags: What this rank has, as bits.
        device: Where tensors of the group are.
        group: The group.

    Raises:
        ValueError: The ranks make different calls, or one refused its arguments; on all ranks.
        RuntimeError: A rank does not answer.
    """
    digest = blake2b(call.encode(), digest_size=7).digest()
    own = torch.tensor([int.from_bytes(digest, "big"), length, flags], device=device)
    ranks = distributed.get_world_size(group)
    every = [torch.empty_like(own) for _ in range(ranks)]
    with told("compare its call with those of the others", group):
        distributed.all_gather(every, own, group=group)
    calls, lengths, bits = torch.stack(every).t().tolist()
    together = 0
    for one in bits:
        together |= one
    if len(set(calls)) > 1 or together & REFUSED:
        _refuse(call, bits, group)
    return lengths, together


def _refuse(call: str, bits: list[int], group: Any) -> None:
    """Raise one error on all ranks, which shows what each of them was about to do."""
    texts: list[Any] = [None] * len(bits)
    with told("say what it was about to do", group):
        distributed.all_gather_object(texts, call, group=group)
    for rank, one in enumerate(bits):
        if one & REFUSED:
            raise ValueError(f"rank {rank} of {len(bits)} refused its arguments: {texts[rank]}")
    ranks: dict[str, list[int]] = {}
    for rank, text in enumerate(texts):
        ranks.setdefault(text, []).append(rank)
    told_by = "; ".join(f"rank {', '.join(map(str, own))}: {text}" for text, own in ranks.items())
    raise ValueError(f"all ranks of the group must make the same call, got {told_by}")
