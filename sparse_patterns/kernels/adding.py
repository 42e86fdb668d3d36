"""Adding to chosen elements of a tensor: in an order that is always the same, and without waiting.

On a GPU `index_add_` leaves the order to the device. `index_put_` sorts the indices first, but some
releases of torch look whether they are within bounds, for which the CPU waits; asked not to look,
it does neither.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def add_to(total: Tensor, index: Sequence[Tensor | None], values: Tensor) -> None:
    """Add to `total[index]`, where the same element may be met more than once.

    Args:
        total: Any tensor, changed in place.
        index: int64 indices of its first dimensions, None for all of one.
        values: Of the shape of `total[index]`.
    """
    if total.device.type != "cpu":
        torch.ops.aten._index_put_impl_(total, list(index), values, True, True)
        return
    *before, own = index
    if own is not None and own.ndim == 1 and all(one is None for one in before):
        total.index_add_(len(before), own, values)  # the faster one
    else:
        torch.ops.aten.index_put_(total, list(index), values, True)
