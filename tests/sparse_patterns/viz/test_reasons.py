"""Why pairs are visible, and how far information flows."""

import pytest
import torch
from torch import Tensor

import sparse_patterns as sp
from sparse_patterns.spec.binding import bind
from sparse_patterns.viz.reasons import KINDS, example_context, reasons, receptive_field, seen_rows

N = 24


def why(pattern: sp.Pattern, **given: Tensor) -> list[list[str | None]]:
    (bound,) = bind(pattern, heads=1)
    context, _ = example_context(pattern, N, **given)
    return [[None if c < 0 else KINDS[c] for c in row] for row in reasons(bound, context).tolist()]


def opposite(q: Tensor, k: Tensor, head: int) -> Tensor:
    return q + k == N - 1


@pytest.mark.parametrize(
    ("pattern", "kind"),
    [
        (sp.Window(3, 2, dilation=2), "window"),
        (sp.LocalBlock(5), "local block"),
        (sp.Strided(4), "strided"),
        (sp.Summary(6, 2), "summary column"),
        (sp.RandomBlocks(4, 2), "random block"),
        (sp.BlockTable(("10", "11"), 8), "block table"),
        (sp.Rule(opposite), "rule"),
        (sp.SameDocument(), "same document"),
        (sp.Causal(), "all keys"),
        (sp.Full(), "all keys"),
        (~sp.Window(4, 4), "other"),
    ],
    ids=repr,
)
def test_one_atom_is_one_kind(pattern: sp.Pattern, kind: str) -> None:
    (bound,) = bind(pattern, heads=1)
    context, _ = example_context(pattern, N)
    mask = seen_rows(bound, context)
    assert mask.any()
    expected = [[kind if seen else None for seen in row] for row in mask.tolist()]
    assert why(pattern) == expected


def test_the_first_of_several_reasons_counts() -> None:
    pattern = (
        sp.Window(2, 2) | sp.Global((5,)) | sp.Global((0,), rows=False) | sp.RandomBlocks(4, 6)
    )
    grid = why(pattern)
    assert grid[5] == ["global row"] * N
    assert [row[5] for row in grid if row is not grid[5]] == ["global column"] * (N - 1)
    assert grid[0][:4] == ["global column", "window", "window", "random block"]
    assert grid[1][0] == "global column"
    assert grid[10][8:13] == ["window"] * 5
    assert grid[10][13] == "random block"


def test_what_takes_pairs_away_is_no_reason() -> None:
    grid = why((sp.Window(4, 4) | sp.Global((3,))) & sp.Causal() & ~sp.Strided(2))
    assert grid[10] == [{3: "global column", 7: "window", 9: "window"}.get(key) for key in range(N)]
    assert grid[3] == [{0: "global row", 2: "global row"}.get(key) for key in range(N)]


def test_globals_and_documents_of_an_example() -> None:
    context, notes = example_context(sp.BatchGlobal() & sp.SameDocument(), 48)
    assert context.global_mask.nonzero().flatten().tolist() == [0, 30]
    assert context.segment_ids.bincount().tolist() == [18, 18, 12]
    assert notes == ["global tokens are an example", "documents are an example"]
    marks = torch.arange(N) == 2
    grid = why(sp.BatchGlobal(), global_mask=marks)
    assert grid[2] == ["global row"] * N
    assert grid[3] == [{2: "global column"}.get(key) for key in range(N)]
    assert example_context(sp.BatchGlobal(), N, marks)[1] == []
    with pytest.raises(ValueError, match=r"global_mask must have shape \(length,\) = \(48,\), got"):
        example_context(sp.BatchGlobal(), 48, marks)


def test_the_receptive_field_is_a_row_of_boolean_products() -> None:
    generator = torch.Generator().manual_seed(1)
    masks = [torch.rand(N, N, generator=generator) < 0.08 for _ in range(5)]
    product = torch.eye(N)
    for depth, mask in enumerate(masks):
        product = ((mask.float() + torch.eye(N)) @ product > 0).float()
        for position in (0, 11, N - 1):
            got = receptive_field(masks, position)
            assert got.shape == (5, N)
            assert torch.equal(got[depth], product[position] > 0)


def test_windows_add_up_over_layers() -> None:
    masks = [sp.dense_mask(sp.Window(left, 1), N, heads=1)[0] for left in (2, 3, 4)]
    assert receptive_field(masks, 12).sum(1).tolist() == [1 + 2 + 1, 1 + 5 + 2, 1 + 9 + 3]
