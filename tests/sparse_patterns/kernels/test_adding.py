"""Sums over repeated indices are in one order on a GPU too, and nothing is looked up for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sparse_patterns.kernels.adding import add_to

ONE, TWO = torch.tensor([2, 0, 2]), torch.tensor([1, 1, 1])
INDICES: list[Sequence[Tensor | None]] = [[ONE], [None, ONE], [ONE, TWO], [ONE[:, None], TWO]]


class Called(TorchDispatchMode):
    """Collects what was called."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found.append((str(func), args))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("index", INDICES)
def test_a_device_sorts_and_does_not_look(index: Sequence[Tensor | None]) -> None:
    total = torch.randn(3, 4, 5)
    values = torch.randn(total[tuple(slice(None) if x is None else x for x in index)].shape)
    want = torch.ops.aten.index_put(total, list(index), values, True)
    found = total.clone()
    add_to(found, index, values)
    torch.testing.assert_close(found, want)
    # The operator that a device is given, here on the CPU.
    found = total.clone()
    torch.ops.aten._index_put_impl_(found, list(index), values, True, True)
    torch.testing.assert_close(found, want)
    with FakeTensorMode(allow_non_fake_inputs=True), Called() as called:
        away = [None if x is None else torch.empty(x.shape, device="cuda").long() for x in index]
        total = torch.empty(3, 4, 5, device="cuda")
        called.found.clear()
        add_to(total, away, torch.empty(values.shape, device="cuda"))
    [(name, args)] = [one for one in called.found if "index" in one[0] or "scatter" in one[0]]
    assert name == "aten._index_put_impl_.default"
    assert args[3:] == (True, True)  # added up, and taken to be within bounds
