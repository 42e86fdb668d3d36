"""The CUDA suite's pure parts: patterns, densities, masks, the ideal; without a GPU, one line."""

from __future__ import annotations

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.cuda.shapes import BATCH, HEADS, PATTERNS, CudaShape, share_of_ideal
from benchmarks.table import Goal, Row
from sparse_patterns.spec.binding import bind
from sparse_patterns.spec.oracle import ExampleContext, visible

LENGTH = 2304  # more than a document and a window, and no multiple of either


def small(name: str) -> CudaShape:
    return CudaShape(name, LENGTH, 64)


@pytest.mark.parametrize("name", PATTERNS)
def test_masks_written_by_hand_are_the_patterns(name: str) -> None:
    shape = small(name)
    q, k = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)[None, :]
    ids = shape.segment_ids("cpu")
    context = ExampleContext(LENGTH, None, None if ids is None else ids[0])
    mod = shape.mask_mod("cpu")
    counts: dict[object, int] = {}
    bound = bind(shape.pattern, heads=HEADS)
    for head, pattern in enumerate(bound):
        if pattern not in counts:
            oracle = visible(pattern, q, k, context)
            by_hand = mod(torch.tensor(0), torch.tensor(head), q, k)
            assert torch.equal(oracle, by_hand.expand_as(oracle)), head
            counts[pattern] = int(oracle.sum())
    seen = sum(counts[pattern] for pattern in bound)
    assert shape.density == pytest.approx(seen / (HEADS * LENGTH**2), rel=1e-12)


def test_the_ideal_is_the_dense_time_of_the_visible_pairs() -> None:
    assert share_of_ideal(dense=10.0, density=0.05, measured=1.0) == 0.5
    assert Goal(">=", 0.5).met(share_of_ideal(10.0, 0.05, 1.0))
    with pytest.raises(ValueError, match="times must be > 0, got dense 0"):
        share_of_ideal(0, 0.5, 1)
    with pytest.raises(ValueError, match=r"density must be in 0..1, got 1.5"):
        share_of_ideal(1, 1.5, 1)


def test_goals_hold_at_their_shape_only() -> None:
    at = CudaShape("window-1024", 32768, 128)
    assert at.goal("forward") == Goal(">=", 0.7)
    assert at.goal("forward+backward") == Goal(">=", 0.6)
    others = (("window-256", 32768, 128), ("window-1024", 4096, 128), ("window-1024", 32768, 64))
    assert [CudaShape(*other).goal("forward") for other in others] == [None] * 3


def test_documents_are_cut_where_the_pattern_says() -> None:
    ids = small("documents-1024").segment_ids("cpu")
    assert ids is not None
    assert ids.shape == (BATCH, LENGTH)
    assert ids[0].unique_consecutive(return_counts=True)[1].tolist() == [2048, 256]
    assert small("window-256").segment_ids("cpu") is None


def test_figures_print_as_rows_of_the_table() -> None:
    share = share_of_ideal(0.058, 0.0625, 0.005)
    row = Row("window", "share of the ideal", 32768, measured=share, goal=Goal(">=", 0.7))
    assert row.cells()[:7] == (
        "window", "32,768", "forward", "share of the ideal", "0.72", ">= 0.7", "yes"
    )  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cuda", "--lengths", "64"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "the suite 'cuda' needs an NVIDIA GPU and a CUDA build of torch; torch sees no GPU"
    ]
