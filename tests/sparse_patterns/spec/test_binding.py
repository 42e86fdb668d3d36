import pytest

import sparse_patterns as sp
from sparse_patterns.spec.binding import bind, check_layer

A, B, C = sp.Window(1, 1), sp.Strided(3), sp.Global((0,))
FULL = sp.Full()


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
