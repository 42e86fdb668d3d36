"""A decoder's pattern: resolved from any form, causal whatever was given, with a known reach."""

import pytest
import torch

import sparse_patterns as sp
from lit_modules.nn.patterns import causal, check_distances, reaches, resolve

NOT_CAUSAL = [
    sp.Full(),
    sp.Window(3, 3),
    sp.Window(2, 1, 3) | sp.Global((0, 5)),
    sp.Window(4, 4) & sp.Strided(2),
    sp.Strided(2) & sp.LocalBlock(5),
    ~sp.Window(2, 2),
    sp.PerHead(sp.Window(1, 2), sp.Full()),
    sp.PerLayer(sp.Window(1, 2), sp.Full()),
    sp.get("bigbird", block=4, per_row=1, global_tokens=2),
    sp.get("longformer", window=4),
    sp.get("sparse-transformer-fixed", block=4, columns=1),
    sp.get("longformer-causal", window=3),
]


@pytest.mark.parametrize("pattern", NOT_CAUSAL, ids=repr)
def test_causal_is_the_pattern_without_later_keys(pattern):
    shape = dict(q_len=17, heads=2, layer=1, layers=2)
    expected = sp.dense_mask(pattern & sp.Causal(), **shape)
    assert torch.equal(sp.dense_mask(causal(pattern), **shape), expected)


def test_causal_keeps_windows_windows():
    assert causal(sp.Window(4, 4)) == sp.Window(4, 0)
    assert causal(sp.Full()) == sp.Causal()
    assert causal(sp.Window(4, 4) & sp.Strided(2)) == sp.Window(4, 0) & sp.Strided(2)


@pytest.mark.parametrize(
    "given",
    ["full", {"window": {"left": 3, "right": 0}}, sp.Strided(3)],
    ids=["name", "config", "pattern"],
)
def test_resolve_takes_every_form(given):
    expected = {"str": sp.Full(), "dict": sp.Window(3, 0), "Strided": sp.Strided(3)}
    assert resolve(given) == expected[type(given).__name__]


def test_unknown_name_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match="streaming"):
        resolve("streamin")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (sp.Window.before(sp.linear(4, 8)), (4, 8)),
        (sp.PerHead(sp.Window.before(5), sp.Window.before(3, 4)), (12, 12)),
        (sp.PerLayer(sp.Window.before(0), sp.Window.before(2) | sp.Window.before(7)), (0, 7)),
        (sp.Strided(3) & sp.Window.before(10), (10, 10)),
        (sp.Window.before(10) & ~sp.Window.before(3), (10, 10)),
        (sp.PerLayer(sp.Window.before(2), sp.Causal()), (2, None)),
    ],
)
def test_a_layer_reaches_as_far_as_it_sees(pattern, expected):
    assert reaches(pattern, heads=2, layers=2) == expected


@pytest.mark.parametrize("name", ["streaming", "sparse-transformer-fixed", "bigbird"])
def test_memory_of_a_pattern_of_places_is_refused(name):
    with pytest.raises(ValueError, match="means other keys in each segment"):
        check_distances(causal(sp.get(name)), heads=2, layers=1)
