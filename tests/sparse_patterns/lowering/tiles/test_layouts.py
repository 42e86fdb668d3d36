"""Tables of blocks: blocks longer than the sequence are cut to it."""

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.lowering.tiles import layouts
from sparse_patterns.lowering.tiles.lower import lower

LARGEST = 2**31 - 1


@pytest.mark.parametrize("block", [41, 300, LARGEST])
@pytest.mark.parametrize("kernel", ["tiles", "xformers_blocks"])
@pytest.mark.parametrize("kind", ["random", "table", "cut"])
def test_a_block_longer_than_the_sequence(kind: str, kernel: str, block: int) -> None:
    pattern = {
        "random": sp.RandomBlocks(block, 1),
        "table": sp.BlockTable([[1]], block),
        "cut": sp.RandomBlocks(block, 1) & sp.Causal() | sp.Window(0, 3),
    }[kind]
    x = torch.randn(2, 2, 40, 8)
    out = sp.attention(x, x, x, pattern, kernel=kernel)
    expected = sp.attention(x, x, x, pattern, kernel="dense")
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)


def test_only_blocks_that_something_cuts_are_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: list[int] = []
    plain = layouts.evaluate_pairs

    def spy(pattern: sp.Pattern, q: torch.Tensor, k: torch.Tensor, kv_len: int) -> torch.Tensor:
        evaluated.append(q.shape[0])
        return plain(pattern, q, k, kv_len)

    monkeypatch.setattr(layouts, "evaluate_pairs", spy)
    table = [[int(abs(row - column) < 3) for column in range(20)] for row in range(20)]
    parts = lower(sp.BlockTable(table, 64), 1280, 1280, 0)
    assert not evaluated
    assert all(run.mask is None or run.mask.shape[1] == 1 for part in parts for run in part.runs)
    # A causal pattern cuts the 20 blocks of the diagonal; those above it are left out before.
    lower(sp.BlockTable(table, 64) & sp.Causal(), 1280, 1280, 0)
    assert sum(evaluated) == 20
