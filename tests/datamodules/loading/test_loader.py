"""Batches come from the one that is next, once each, as the source made them."""

from __future__ import annotations

import pytest
import torch

from datamodules.loading.loader import Batches, Numbers


class Named:
    """Batch k is a tuple of k and a tensor."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> tuple[int, torch.Tensor]:
        return number, torch.tensor([number])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_yielded_in_order_and_unchanged(workers: int) -> None:
    batches = list(Batches(Named(), lambda: Numbers(0, range(4, 9)), workers))
    assert [number for number, _ in batches] == [4, 5, 6, 7, 8]
    assert all(isinstance(batch, tuple) for batch in batches)
    assert [int(tensor) for _, tensor in batches] == [4, 5, 6, 7, 8]


def test_an_epoch_is_asked_for_when_it_begins() -> None:
    epochs = [Numbers(0, range(2)), Numbers(2, range(2, 5)), Numbers(0, range(5, 6))]
    loader = Batches(Named(), lambda: epochs.pop(0))
    assert len(loader) == 2
    iterator = iter(loader)
    assert len(loader) == 5, "batches that are behind count, as Lightning counts"
    assert [number for number, _ in iterator] == [2, 3, 4]
    assert [number for number, _ in loader] == [5]


def test_reading_leaves_the_model_s_random_numbers_alone() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    list(Batches(Named(), lambda: Numbers(0, range(3))))
    assert torch.equal(torch.rand(4), wanted)
