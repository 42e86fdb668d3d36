import random

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.spec.algebra import replace_atoms
from sparse_patterns.spec.base import uses
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
    with pytest.raises(ValueError, match=r"window factor must be (> 0|finite), got"):
        sp.scale_windows(A, factor)
