"""Traffic by hand; `test_functional.py` compares it with what is sent."""

import pytest

import sparse_patterns as sp
from lit_modules.commands.patterns import patterns

KEY = 2 * 2 * 16 * 4
"""Bytes of a key and its value: two heads of 16 in float32."""
SHAPE = {"heads": 2, "head_dim": 16}


def test_a_window_sends_its_sides() -> None:
    made = sp.distributed.traffic(sp.Window(5, 3), 90, 4, **SHAPE)
    assert made.lengths == (23, 23, 22, 22)
    assert made.received == tuple(n * KEY for n in (3, 8, 8, 5))
    assert made.sent == tuple(n * KEY for n in (5, 8, 8, 3))
    assert made.backward_sent == tuple(n * KEY for n in (8, 16, 16, 8))
    assert made.gathered == tuple((90 - n) * KEY for n in made.lengths)
    assert made.seconds(KEY) == 8
    assert "a rank sends at most 2.05 kB, receives 2.05 kB" in str(made)
    assert "gathering all keys and values: 17.4 kB forward, 8.5 times as much" in str(made)


def test_one_rank_sends_nothing() -> None:
    made = sp.distributed.traffic(sp.Full() | sp.Global((0,)), 90, 1, **SHAPE)
    assert made.sent == made.received == made.backward_sent == made.gathered == (0,)


def test_sinks_pass_through_a_tree() -> None:
    pattern = (sp.Window(0, 0) | sp.Global((0,), rows=False)) & sp.Causal()
    made = sp.distributed.traffic(pattern, 80, 8, **SHAPE)
    assert made.sent == tuple(n * KEY for n in (3, 0, 1, 0, 2, 0, 1, 0))
    assert made.received == (0, *[KEY] * 7)


def test_marked_tokens_are_counted() -> None:
    pattern = sp.Window(0, 0) | sp.BatchGlobal(rows=False)
    assert sum(sp.distributed.traffic(pattern, 80, 2, **SHAPE).sent) == 0
    marked = sp.distributed.traffic(pattern, 80, 2, **SHAPE, global_tokens=[0, 70, 71])
    assert marked.sent == (KEY, 2 * KEY)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pattern": "window"}, "pattern must be a Pattern, got 'window'"),
        ({"length": -1}, "length must be >= 0, got -1"),
        ({"ranks": 0}, "ranks must be >= 1, got 0"),
        ({"ranks": 2.0}, "ranks must be an int, got 2.0"),
        ({"kv_heads": 3}, r"kv_heads must divide heads \(2\), got 3"),
        ({"layer": 1}, "layer must be in 0..0"),
        ({"global_tokens": 3}, "global_tokens must be positions, got 3"),
        ({"global_tokens": [3]}, r"the pattern has no BatchGlobal\(\) to read them"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, object], message: str) -> None:
    right = {"pattern": sp.Window(1, 1), "length": 10, "ranks": 2, "heads": 2}
    with pytest.raises((TypeError, ValueError), match=message):
        sp.distributed.traffic(**{**right, **wrong})


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", "longformer", "window=64", "--length", "4096", "--ranks", "8"]
    assert patterns(words) == 0
    # 32 keys on either side, of 8 heads of 64 in float32.
    assert "a rank sends at most 262 kB, receives 262 kB" in capsys.readouterr().out
