"""Can a kernel that was asked for by name serve the stretch of every rank?

Every rank asks for all of them, so that all refuse a call together and none waits for another.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparse_patterns.distributed.layout import EMPTY, Interval
from sparse_patterns.distributed.parts import Parts
from sparse_patterns.distributed.relocation import alignment, keeps_rows_apart, relocate
from sparse_patterns.kernels.base import Request
from sparse_patterns.kernels.dispatch import CHOICES, get_kernel


def check_named(parts: Parts) -> None:
    """Refuse a kernel that some rank cannot use; the answer is remembered with the layout.

    Raises:
        ValueError: With the rank and the reasons of the kernel; the same on all ranks.
    """
    given, layout, whole = parts.given, parts.layout, parts.whole
    if given.kernel in CHOICES:
        return
    masks = (whole.key_mask is not None, whole.global_mask is not None)
    sizes = (*given.q.shape[:2], given.k.shape[1], given.q.shape[3])
    asked = (given.kernel, *sizes, given.q.dtype, given.needs_grad, *masks)
    if asked in layout.served:
        return
    for rank, keys in _pieces(parts):
        reasons = get_kernel(given.kernel).why_not(_request(parts, rank, keys))
        if reasons:
            raise ValueError(
                f"kernel {given.kernel!r} cannot serve rank {rank} of {layout.ranks}: "
                f"{'; '.join(reasons)}"
            )
    layout.served.add(asked)


def _pieces(parts: Parts) -> Iterator[tuple[int, Interval]]:
    """Yield each rank with rows, and every interval of keys that a kernel computes for it."""
    layout = parts.layout
    apart, align = keeps_rows_apart(layout.pattern), alignment(layout.pattern)
    for rank in range(layout.ranks):
        start, stop = layout.stretch(rank)
        if start == stop:
            continue
        yield rank, layout.reach(rank).near
        for owner in range(layout.ranks) if apart and layout.is_far else ():
            keys = parts.far_of(rank, owner) if owner != rank else EMPTY
            if keys != EMPTY and keys[0] % align == 0:
                yield rank, keys


def _request(parts: Parts, rank: int, keys: Interval) -> Request:
    given, layout, whole = parts.given, parts.layout, parts.whole
    batch, heads, _, head_dim = given.q.shape
    start, stop = layout.stretch(rank)
    return Request(
        pattern=relocate(layout.pattern, *keys, layout.length, heads, given.layer, given.layers),
        layer=given.layer,
        layers=given.layers,
        batch=batch,
        heads=heads,
        kv_heads=given.k.shape[1],
        q_len=stop - start,
        kv_len=keys[1] - keys[0],
        q_offset=start - keys[0],
        head_dim=head_dim,
        dtype=given.q.dtype,
        device=given.q.device.type,
        key_mask=whole.key_mask is not None,
        global_mask=whole.global_mask is not None,
        segment_ids=whole.segment_ids is not None,
        needs_grad=given.needs_grad,
    )
