"""What was found out about a mask, kept as long as the mask: plans of many lengths share masks."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

LARGEST = 1 << 18
"""Elements of a mask of which things are kept, which bounds the memory."""

_found: WeakIdKeyDictionary = WeakIdKeyDictionary()

T = TypeVar("T")


def known(mask: Tensor, name: Hashable, make: Callable[[], T]) -> T:
    """Return what was made of a mask before, or make it now.

    Args:
        mask: The mask, which nobody changes.
        name: Everything that the result depends on besides the mask.
        make: Makes the result, which must not hold the mask or a view of it: it would live forever.
    """
    if mask.numel() > LARGEST:
        return make()
    of_mask: dict[Hashable, Any] = _found.setdefault(mask, {})
    if name not in of_mask:
        of_mask[name] = make()
    found: T = of_mask[name]
    return found
