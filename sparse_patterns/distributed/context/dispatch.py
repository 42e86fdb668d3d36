"""Attention of a module: of whole sequences, or of a stretch where sequences are cut."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sparse_patterns.distributed.context.split import current_split, refuse_in_split
from sparse_patterns.distributed.functional import attention as attention_of_stretch
from sparse_patterns.functional import attention
from sparse_patterns.spec.base import Pattern


def attend(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, **options: Any) -> Tensor:
    """Return `sparse_patterns.attention`, or that of `distributed` inside of a split.

    Args:
        q: Queries `(batch, heads, length, head_dim)`: all of them, or those of the stretch.
        k: Keys, likewise.
        v: Values, likewise.
        pattern: What attends to what, in positions of the whole sequence.
        **options: Further arguments of `sparse_patterns.attention`.

    Returns:
        `(batch, heads, length, head_dim)`.

    Raises:
        ValueError: As the functions; inside of a split, an option is given that only one process
            can serve.
    """
    split = current_split()
    if split is None:
        out = attention(q, k, v, pattern, **options)
    else:
        for name in ONE_PROCESS:
            if options.pop(name, None) is not None:
                refuse_in_split(f"attention with {name}")
        out = attention_of_stretch(q, k, v, pattern, group=split.group, **options)
    assert isinstance(out, Tensor)
    return out


ONE_PROCESS = ("softcap", "sinks", "distance_bias", "q_offset")
"""Options of attention that are not there over several processes."""
