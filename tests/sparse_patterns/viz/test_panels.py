"""What goes into which panel, and at what scale."""

import pytest

import sparse_patterns as sp
from sparse_patterns.spec.binding import bind
from sparse_patterns.viz.panels import (
    brief,
    guess_sizes,
    make_panels,
    make_sketch,
    scale_for,
    shrink,
    spans,
)


@pytest.mark.parametrize(
    ("pattern", "heads", "layers"),
    [
        (sp.Window(1, 1), 1, 4),
        (sp.Window((1, 2, 3), 0), 3, 4),
        (sp.Window([1, 2], 0), 1, 2),
        (sp.Window(sp.steps((1, 5), (2, 3)), 0), 1, 8),
        (sp.Window(sp.spread(1, 2, 3, 4, 5), 0), 1, 5),
        (sp.PerHead(sp.Full(), sp.Causal(), sp.Full(), rest=True), 3, 4),
        (sp.PerLayer(*[sp.Full()] * 5, sp.Causal(), repeat=True), 1, 6),
        (sp.BlockTable([[[1]], [[0]]], 4), 2, 4),
    ],
    ids=repr,
)
def test_the_least_sizes_that_show_everything(pattern: sp.Pattern, heads: int, layers: int) -> None:
    assert guess_sizes(pattern, None, None) == (heads, layers)


def test_given_sizes_are_kept_or_refused() -> None:
    assert guess_sizes(sp.Window((1, 2), 0), None, 7) == (2, 7)
    assert guess_sizes(sp.Window(1, 0), 5, None) == (5, 4)
    with pytest.raises(ValueError, match="window left has 2 numbers, one per head: need 3"):
        guess_sizes(sp.Window((1, 2), 0), 3, None)
    with pytest.raises(ValueError, match="describes 2 layers, the model has 3"):
        guess_sizes(sp.Window([1, 2], 0), None, 3)
    with pytest.raises(ValueError, match="heads must be >= 1, got 0"):
        guess_sizes(sp.Window(1, 0), 0, None)
    with pytest.raises(ValueError, match="layers must be >= 1, got 0"):
        guess_sizes(sp.Window(1, 0), None, 0)


@pytest.mark.parametrize(
    ("pattern", "scale"),
    [
        (sp.Window(24, 24), 1),
        (sp.Window(25, 0), 1 / 2),
        (sp.Window(12, 0, dilation=4), 1),
        (sp.Window(13, 0, dilation=4), 1 / 2),
        (sp.LocalBlock(128), 1 / 16),
        (sp.RandomBlocks(64, 3), 1 / 16),
        (sp.Full(), 1),
    ],
    ids=repr,
)
def test_the_scale_fits_the_structure_into_the_picture(pattern: sp.Pattern, scale: float) -> None:
    assert scale_for(bind(pattern, heads=1), 48) == scale


def test_shrinking_divides_all_but_dilation() -> None:
    def small(pattern: sp.Pattern) -> sp.Pattern:
        return shrink(*bind(pattern, heads=1), 1 / 8)

    assert small(sp.Window(64, 1, dilation=3)) == sp.Window(8, 1, dilation=3)
    assert small(sp.Window(0, 16)) == sp.Window(0, 2)
    assert small(sp.Global((0, 7, 8, 80, -1, -8, -9))) == sp.Global((0, 1, 10, -1, -2))
    assert small(sp.LocalBlock(32) | sp.Strided(4)) == sp.LocalBlock(4) | sp.Strided(1)
    assert small(sp.Summary(32, 2) & sp.Causal()) == sp.Summary(4, 1) & sp.Causal()
    assert small(sp.BlockTable(("10",), 16)) == sp.BlockTable(("10",), 2)
    assert (small(sp.RandomBlocks(16, 3)).block, small(sp.RandomBlocks(16, 3)).per_row) == (2, 3)


def test_the_sketch_says_at_what_scale() -> None:
    assert make_sketch(sp.Window(4, 4), 48).notes == ()
    assert make_sketch(sp.Window(256, 0), 48).notes == (
        "windows, blocks and positions divided by 16",
    )
    assert make_sketch(sp.Window(8, 0), 48, scale=0.75).notes == (
        "windows, blocks and positions times 0.75",
    )
    for scale in (0, -1, 1.5):
        with pytest.raises(
            ValueError, match=rf"scale must be in \(0, 1\] or 'auto', got {scale!r}"
        ):
            make_sketch(sp.Full(), 48, scale=scale)
    for scale in ("small", True):
        with pytest.raises(
            TypeError, match=f"scale, if not 'auto', must be a number, got {scale!r}"
        ):
            make_sketch(sp.Full(), 48, scale=scale)
    with pytest.raises(ValueError, match="length of a picture must be >= 1, got 0"):
        make_sketch(sp.Full(), 0)


def test_heads_and_layers_that_are_alike_share_a_panel() -> None:
    wide, narrow = sp.Window(9, 0), sp.Window(3, 0)
    pattern = sp.PerLayer(wide, sp.PerHead(wide, narrow), wide)
    panels = make_panels(make_sketch(pattern, 48, heads=4).bound)
    assert [(p.pattern, p.layers, p.heads) for p in panels] == [
        (wide, (0, 2), (0, 1, 2, 3)),
        (wide, (1,), (0, 1)),
        (narrow, (1,), (2, 3)),
    ]
    assert not any(panel.varies for panel in panels)


def test_draws_at_random_share_a_panel_that_says_so() -> None:
    (panel,) = make_panels(make_sketch(sp.RandomBlocks(4, 2), 48, heads=2, layers=3).bound)
    assert (panel.layers, panel.heads, panel.varies) == ((0, 1, 2), (0, 1), True)
    (alone,) = make_panels(make_sketch(sp.RandomBlocks(4, 2), 48, heads=1, layers=1).bound)
    assert not alone.varies


def test_brief_cuts_what_is_long() -> None:
    (bound,) = bind(sp.RandomBlocks(4, 2, seed=5) | sp.BlockTable([[1, 0], [0, 1]], 8), heads=1)
    assert brief(bound) == "RandomBlocks(4, 2, 5) | BlockTable(…, 8)"
    assert brief(sp.BlockTable([[[1]], [[0]]], 8) | sp.Full()) == repr(
        sp.BlockTable([[[1]], [[0]]], 8) | sp.Full()
    ).replace("((('1',), ('0',))", "(…")
    assert brief(sp.Global((1, 5, 6, 9, 12, 40))) == "Global((1, 5, …, 40))"
    assert brief(sp.Window((1, 2, 3), 0)) == "Window((1, 2, 3), 0)"


def test_spans() -> None:
    assert spans([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert spans([3]) == "3"
