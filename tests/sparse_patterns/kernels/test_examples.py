"""What the masks of a batch say: found once, and found anew where a mask differs."""

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.examples import RECENT, Examples, examples_of

CPU = torch.device("cpu")


def group_of(pattern: sp.Pattern, q_len: int, kv_len: int, q_offset: int = 0):
    (group,) = sp.plan(pattern, q_len, kv_len, heads=2, q_offset=q_offset).groups
    return group


def test_equal_masks_give_the_same_object_and_written_ones_another() -> None:
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 5:] = False
    first = examples_of((2, 9, 9, 0), CPU, mask, None, None)
    assert examples_of((2, 9, 9, 0), CPU, mask.clone(), None, None) is first
    assert examples_of((2, 8, 9, 1), CPU, mask, None, None) is not first
    mask[1, 5] = True
    second = examples_of((2, 9, 9, 0), CPU, mask, None, None)
    assert second is not first
    assert first.key_mask is not None
    assert first.key_mask.sum() == 14


def test_only_some_batches_are_remembered() -> None:
    masks = [torch.arange(20)[None] < n for n in range(1, RECENT + 2)]
    first = examples_of((1, 20, 20, 0), CPU, masks[0], None, None)
    for mask in masks[1:]:
        examples_of((1, 20, 20, 0), CPU, mask, None, None)
    assert examples_of((1, 20, 20, 0), CPU, masks[0], None, None) is not first


def test_no_padding_is_no_mask() -> None:
    made = examples_of((1, 4, 4, 0), CPU, torch.ones(1, 4, dtype=torch.bool), None, None)
    assert made.key_mask is None
    assert made.padded_rows is None


def test_a_padded_token_is_not_global() -> None:
    real = torch.tensor([[True, True, False, True]])
    marks = torch.tensor([[True, False, True, False]])
    made = Examples((1, 4, 4, 0), CPU, real, marks, None)
    assert made.global_mask is not None
    assert made.global_mask.tolist() == [[True, False, False, False]]
    rows = made.global_rows(group_of(sp.BatchGlobal() | sp.Global((2, 3)), 4, 4))
    assert rows is not None
    assert rows.tolist() == [[True, False, False, True]]
    assert made.padded_rows is not None
    assert made.padded_rows.tolist() == [[False, False, True, False]]


@pytest.mark.parametrize(("q_len", "offset"), [(3, 3), (8, -1), (4, 0), (2, 20)])
def test_marks_are_read_at_the_positions_of_the_queries(q_len: int, offset: int) -> None:
    marks = torch.tensor([[True, False, True, True, False, True]])
    made = Examples((1, q_len, 6, offset), CPU, None, marks, None)
    wanted = [0 <= row + offset < 6 and bool(marks[0, row + offset]) for row in range(q_len)]
    assert made.at_queries(marks, outside=False).tolist() == [wanted]
    lists = made.global_row_lists(group_of(sp.BatchGlobal(), q_len, 6, offset))
    assert [row.tolist() for row in lists] == (
        [[row for row in range(q_len) if wanted[row]]] if any(wanted) else []
    )


def test_documents_are_counted_in_each_example() -> None:
    made = Examples((2, 3, 3, 0), CPU, None, None, torch.tensor([[7, 7, -1], [5, 9, 5]]))
    assert made.documents is not None
    assert made.documents.tolist() == [[1, 1, 0], [0, 1, 0]]
    assert made.context(1) is made.context(1)


def test_an_empty_sequence_has_no_rows_to_read() -> None:
    made = Examples((1, 2, 0, 0), CPU, None, torch.zeros(1, 0, dtype=torch.bool), None)
    assert made.at_queries(torch.zeros(1, 0, dtype=torch.int64), outside=4).tolist() == [[4, 4]]
