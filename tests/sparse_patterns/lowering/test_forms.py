"""Forms are made when they are asked for, once, and shared by equal heads and layers."""

import pytest

import sparse_patterns as sp
from sparse_patterns.lowering import forms
from sparse_patterns.lowering.forms import Forms, forms_of


def test_equal_arguments_share_one_object() -> None:
    first = forms_of(sp.Window(5, 5), 64, 64, 0)
    assert forms_of(sp.Window(5, 5), 64, 64, 0) is first
    assert forms_of(sp.Window(5, 5), 64, 64, 1) is not first
    layers = [sp.plan(sp.Window(5, 5), 64, heads=2, layer=n, layers=3).groups[0] for n in range(3)]
    assert {id(group.forms) for group in layers} == {id(first)}


def test_each_form_is_made_once() -> None:
    made = forms_of(sp.Window(3, 3), 40, 40, 0)
    assert made.blocks(16) is made.blocks(16)
    assert made.blocks(16) is not made.blocks(8)
    assert made.tiles is made.tiles
    assert made.fused is made.fused


def test_numbers_and_other_forms_need_no_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise AssertionError("lowered to tiles")

    monkeypatch.setattr(forms, "lower", fail)
    made = Forms(sp.Window(3, 3) | sp.Global((0,)), 400, 400, 0)
    assert made.numbers.receptive_field == (399, 399)
    assert made.blocks(64).row.numel() > 0
    assert not made.fused.reasons
    assert sp.plan(sp.get("longformer", window=8), 512, heads=2).density < 0.1
    with pytest.raises(AssertionError, match="lowered to tiles"):
        _ = made.tiles


def test_a_layout_known_at_the_call_has_no_block_form_here() -> None:
    with pytest.raises(AssertionError):
        forms_of(sp.BatchGlobal(), 32, 32, 0).blocks(16)
