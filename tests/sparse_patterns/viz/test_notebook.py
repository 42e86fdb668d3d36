"""A pattern in a notebook: a picture, figures that a mask confirms, and `repr` where neither is."""

import base64
import re
import sys

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.viz.notebook import figures, to_html

DAILY = ("longformer", "bigbird", "neighborhood")


@pytest.mark.parametrize(
    "name",
    [name if name in DAILY else pytest.param(name, marks=pytest.mark.long) for name in sp.names()],
)
def test_presets_have_a_picture_and_figures(name: str) -> None:
    try:
        pattern = sp.get(name)
    except ValueError:
        pytest.skip(f"{name} has required fields")
    text = pattern._repr_html_()
    assert text is not None
    (picture,) = re.findall(r"base64,([^\"]+)", text)
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert "figures for 4,096 tokens" in text


def test_figures_are_those_of_the_mask() -> None:
    pattern = sp.Window(sp.linear(2, 8), 1) | sp.Global((0,))
    for row in figures(pattern, 64):
        layers, density, keys, back, ahead = row
        mask = sp.dense_mask(pattern, 64, heads=1, layer=int(layers), layers=4).reshape(64, 64)
        q, k = mask.nonzero(as_tuple=True)
        assert density == f"{mask.float().mean():.2%}"
        assert keys == f"{mask.sum() / 64:,.1f}"
        assert (back, ahead) == (f"{(q - k).max()} tokens", f"{(k - q).max()} tokens")
    assert len(figures(pattern, 64)) == 4
    assert [row[0] for row in figures(sp.Causal(), 64)] == ["all"]


def test_code_of_a_pattern_is_escaped() -> None:
    def less(head: int, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return k < q

    text = to_html(sp.Rule(less, "<b>") & sp.Window(4, 4))
    assert text is not None
    assert "<b>" not in text
    assert "figures for 512 tokens" in text


def test_masks_of_the_batch_are_named() -> None:
    text = to_html(sp.BatchGlobal() | sp.Window(2, 2))
    assert text is not None
    assert "no global tokens of the batch" in text


def test_without_matplotlib_a_notebook_shows_the_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert sp.Causal()._repr_html_() is None


def test_a_pattern_that_fits_no_heads_shows_its_repr() -> None:
    wrong = sp.PerHead(*[sp.Causal()] * 5, sp.Full()) & sp.PerHead(*[sp.Causal()] * 63, sp.Full())
    assert wrong._repr_html_() is None
