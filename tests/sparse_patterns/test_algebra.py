import random

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.algebra import bind, check_layer, replace_atoms, uses
from tests.random_specs import every_third, mirrored, random_case, random_pattern

A, B, C = sp.Window(1, 1), sp.Strided(3), sp.Global((0,))
FULL = sp.Full()


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (A | A, A),
        (A & A, A),
        (~~A, A),
        ((A | B) | C, sp.Union((A, B, C))),
        (A | (B | C), sp.Union((A, B, C))),
        ((A & B) & (C & A), sp.Intersection((A, B, C))),
        ((A | B) | (B | A), A | B),
        (A | FULL, FULL),
        (FULL | A | B, FULL),
        (A & FULL, A),
        (FULL & FULL, FULL),
        (FULL & A & B, A & B),
        (~FULL, sp.Complement(FULL)),
        (sp.BatchGlobal() | FULL | A, sp.BatchGlobal() | FULL),
        (sp.SameDocument() | FULL, sp.SameDocument() | FULL),
        ((A & sp.BatchGlobal()) | FULL, (A & sp.BatchGlobal()) | FULL),
    ],
    ids=repr,
)
def test_simplified_when_made(made: sp.Pattern, expected: sp.Pattern) -> None:
    assert made == expected
    assert hash(made) == hash(expected)


def test_operators_keep_the_order_and_the_kind() -> None:
    assert (A | B).parts == (A, B)
    assert (B & A).parts == (B, A)
    assert (~(A | B)).part == A | B
    assert (A | B) != (A & B)
    assert ((A | B) & C).children() == (A | B, C)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (A | B & C, "Window(1, 1) | Strided(3) & Global((0,))"),
        ((A | B) & C, "(Window(1, 1) | Strided(3)) & Global((0,))"),
        (~(A | B), "~(Window(1, 1) | Strided(3))"),
        (~(A & B), "~(Window(1, 1) & Strided(3))"),
        (~A | B, "~Window(1, 1) | Strided(3)"),
        (sp.PerHead(A | B, C), "PerHead(Window(1, 1) | Strided(3), Global((0,)))"),
        (sp.PerHead(A, C, rest=True), "PerHead(Window(1, 1), Global((0,)), rest=True)"),
        (sp.PerLayer(A, ~B), "PerLayer(Window(1, 1), ~Strided(3))"),
        (sp.PerLayer(A, repeat=True), "PerLayer(Window(1, 1), repeat=True)"),
    ],
)
def test_repr(pattern: sp.Pattern, text: str) -> None:
    assert repr(pattern) == text


@pytest.mark.parametrize("start", range(0, 1000, 250))
def test_repr_of_random_specs_can_be_pasted_back(start: int) -> None:
    names = {**vars(sp), "every_third": every_third, "mirrored": mirrored}
    for seed in range(start, start + 250):
        pattern = random_case(seed).pattern
        again = eval(repr(pattern), dict(names))
        assert again == pattern
        assert hash(again) == hash(pattern)


def test_simplification_does_not_change_the_meaning() -> None:
    """Built raw and built by operators, the same parts are the same pairs."""
    for seed in range(100):
        rng = random.Random(seed)
        parts = tuple(random_pattern(rng, 2, 1, depth=1) for _ in range(3))
        parts = (*parts, rng.choice((FULL, parts[0])))
        arguments = {"heads": 2}
        if uses(sp.Union(parts), sp.SameDocument):
            arguments["segment_ids"] = torch.tensor([[0] * 5 + [1] * 7])
        for raw, made in (
            (sp.Union(parts), parts[0] | parts[1] | parts[2] | parts[3]),
            (sp.Intersection(parts), parts[0] & parts[1] & parts[2] & parts[3]),
            (sp.Complement(sp.Complement(parts[0])), ~~parts[0]),
        ):
            if uses(raw, sp.SameDocument) != uses(made, sp.SameDocument):
                continue
            extra = arguments if uses(raw, sp.SameDocument) else {"heads": 2}
            first, second = (sp.dense_mask(p, 12, **extra) for p in (raw, made))
            assert torch.equal(first, second), (raw, made)


def test_per_head_gives_equal_groups() -> None:
    assert bind(sp.PerHead(A, B), heads=4) == (A, A, B, B)
    assert bind(sp.PerHead(A, B, C), heads=3) == (A, B, C)
    assert bind(sp.PerHead(A), heads=5) == (A,) * 5


def test_per_head_rest_serves_any_number_of_heads() -> None:
    pattern = sp.PerHead(A, B, C, rest=True)
    assert bind(pattern, heads=1) == (A,)
    assert bind(pattern, heads=2) == (A, B)
    assert bind(pattern, heads=5) == (A, B, C, C, C)


def test_heads_are_counted_over_the_whole_attention_in_nested_choices() -> None:
    inner = sp.PerHead(A, B, C, sp.Causal())
    assert bind(sp.PerHead(inner, FULL), heads=4) == (A, B, FULL, FULL)
    assert bind(sp.PerHead(sp.Window((1, 2), 0)), heads=2) == (sp.Window(1, 0), sp.Window(2, 0))


def test_per_layer() -> None:
    pattern = sp.PerLayer(A, B)
    assert bind(pattern, heads=1, layer=0, layers=2) == (A,)
    assert bind(pattern, heads=1, layer=1, layers=2) == (B,)


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 7])
def test_per_layer_repeat_serves_any_number_of_layers(layers: int) -> None:
    pattern = sp.PerLayer(A, B, C, repeat=True)
    got = [bind(pattern, heads=1, layer=layer, layers=layers)[0] for layer in range(layers)]
    assert got == [A, B, C, A, B, C, A][:layers]


def test_bind_leaves_plain_numbers_only() -> None:
    pattern = sp.Window(sp.linear(2, 6), [(1, 2), 3, (4, 5)], sp.spread(1, 2)) | ~B
    assert bind(pattern, heads=2, layer=2, layers=3) == (
        sp.Window(6, 4, 2) | ~B,
        sp.Window(6, 5, 2) | ~B,
    )


def test_bind_gives_equal_heads_equal_patterns() -> None:
    first, second = bind(sp.Window((3, 3), 0) & sp.Causal(), heads=2)
    assert first == second
    one, other = bind(sp.RandomBlocks(4, 1), heads=2)
    assert one != other


def test_bind_simplifies_what_only_then_is_equal() -> None:
    assert bind(sp.PerHead(A, B) | A, heads=2) == (A, B | A)


def test_bind_takes_the_table_of_the_head() -> None:
    table = sp.BlockTable((("1",), ("0",)), 4)
    assert bind(table, heads=2) == (sp.BlockTable(("1",), 4), sp.BlockTable(("0",), 4))


@pytest.mark.parametrize(
    ("pattern", "arguments", "message"),
    [
        (sp.PerHead(A, B), {"heads": 3}, "PerHead has 2 patterns.* divide .*heads, got 3"),
        (sp.PerHead(A, B), {"heads": 1}, "PerHead has 2 patterns.* divide .*heads, got 1"),
        (sp.PerLayer(A, B), {"heads": 1}, "PerLayer has 2 patterns.* equal .* got layers=1"),
        (sp.PerLayer(A, B), {"heads": 1, "layers": 4}, "equal .* got layers=4"),
        (sp.Window((1, 2), 0), {"heads": 3}, "window left has 2 numbers, .*need 3"),
        (sp.Window(0, (1, 2)), {"heads": 1}, "window right has 2 numbers, .*need 1"),
        (sp.Window(0, 0, [(1, 2)]), {"heads": 1}, "window dilation has 2 numbers, .*need 1"),
        (sp.Window([1, 2], 0), {"heads": 1, "layers": 3}, "describes 2 layers, the model has 3"),
        (sp.Window(sp.steps((1, 2)), 0), {"heads": 1}, "describes 2 layers, the model has 1"),
        (sp.BlockTable((("1",),), 4), {"heads": 2}, "block table has 1 heads, .* has 2"),
        (A, {"heads": 0}, "heads must be >= 1, got 0"),
        (A, {"heads": 1, "layer": 1}, r"layer must be in 0\.\.0 \(layers=1\), got 1"),
    ],
)
def test_bind_refuses_what_does_not_fit(pattern, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bind(pattern, **arguments)


def test_check_layer() -> None:
    check_layer(2, 3)
    for layer, layers, message in [(3, 3, "got 3"), (-1, 3, "got -1"), (0, 0, "layers must be")]:
        with pytest.raises(ValueError, match=message):
            check_layer(layer, layers)


@pytest.mark.parametrize("kind", [sp.Union, sp.Intersection])
def test_parts_are_checked(kind) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} needs at least one pattern"):
        kind(())
    with pytest.raises(TypeError, match=f"{kind.__name__} takes patterns, got 3"):
        kind((A, 3))
    assert kind([A, B]) == kind((A, B))


def test_choices_are_checked() -> None:
    for kind in (sp.PerHead, sp.PerLayer):
        with pytest.raises(ValueError, match="needs at least one pattern"):
            kind()
        with pytest.raises(TypeError, match=r"takes patterns, got \[.*\]"):
            kind([A, B])
    with pytest.raises(TypeError, match="PerHead rest must be True or False, got 1"):
        sp.PerHead(A, rest=1)
    with pytest.raises(TypeError, match="PerLayer repeat must be True or False, got 'yes'"):
        sp.PerLayer(A, repeat="yes")
    with pytest.raises(TypeError, match="Complement takes a pattern, got 3"):
        sp.Complement(3)


def test_uses_looks_inside() -> None:
    pattern = sp.PerLayer(~(A & sp.PerHead(B, sp.BatchGlobal())), C)
    assert uses(pattern, sp.BatchGlobal)
    assert uses(pattern, sp.SameDocument, sp.Complement)
    assert not uses(pattern, sp.SameDocument)


def test_replace_atoms_keeps_the_composition() -> None:
    pattern = sp.PerLayer(sp.PerHead(A | C, ~A, rest=True), A & B, repeat=True)
    expected = sp.PerLayer(sp.PerHead(B | C, ~B, rest=True), B, repeat=True)
    assert replace_atoms(pattern, lambda atom: B if atom == A else atom) == expected


def test_scale_windows() -> None:
    pattern = sp.PerHead(
        sp.Window(sp.linear(32, 512), (2, 3), 4) | sp.Global((0,)),
        ~sp.Window([1, 2], sp.steps((3, 1), ((4, 5), 1))),
    )
    assert sp.scale_windows(pattern, 2) == sp.PerHead(
        sp.Window(sp.linear(64, 1024), (4, 6), 4) | sp.Global((0,)),
        ~sp.Window([2, 4], sp.steps((6, 1), ((8, 10), 1))),
    )
    assert sp.scale_windows(sp.Window(5, 0), 0.5) == sp.Window(2, 0)
    assert sp.scale_windows(B, 3) == B


@pytest.mark.parametrize("factor", [0, -1, float("nan")])
def test_scale_windows_refuses(factor: float) -> None:
    with pytest.raises(ValueError, match="window factor must be > 0, got"):
        sp.scale_windows(A, factor)
