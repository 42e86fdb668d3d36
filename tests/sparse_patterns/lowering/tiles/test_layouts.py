"""Tables of blocks: blocks longer than the sequence are cut to it."""

import pytest
import torch

import sparse_patterns as sp

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
