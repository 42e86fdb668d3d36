import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.spec.schedules import Listed
from tests.random_specs import every_third

ATOMS = [
    sp.Window(1, 2),
    sp.Window(1, 2, 3),
    sp.Window((1, 2), [3, 4], sp.linear(1, 5)),
    sp.Window([1, (2, 3)], 0),
    sp.GridWindow((14, 14), 3, prefix=1),
    sp.GridWindow(9, sp.linear(1, 2), 2),
    sp.GridWindow((4, 5, 6), (1, 2, sp.linear(1, 2)), [1, (1, 2, 3)]),
    sp.Causal(),
    sp.Full(),
    sp.Global(()),
    sp.Global((0, -1)),
    sp.Global((0,), rows=False),
    sp.Global(range(10)),
    sp.Global(range(-9, -3), rows=False),
    sp.BatchGlobal(),
    sp.BatchGlobal(rows=False),
    sp.Strided(4),
    sp.LocalBlock(4),
    sp.Summary(4, 1),
    sp.RandomBlocks(4, 2),
    sp.RandomBlocks(4, 2, seed=3),
    sp.BlockTable((), 3),
    sp.BlockTable(("10", "01"), 3),
    sp.BlockTable((("10", "01"), ("11", "00")), 3),
    sp.SameDocument(),
    sp.Rule(every_third),
    sp.Rule(every_third, name="mine"),
]


@pytest.mark.parametrize("pattern", ATOMS, ids=repr)
def test_repr_can_be_pasted_back(pattern: sp.Pattern) -> None:
    again = eval(repr(pattern), {**vars(sp), "every_third": every_third})
    assert again == pattern
    assert hash(again) == hash(pattern)


def test_patterns_are_all_different() -> None:
    assert len(set(ATOMS)) == len(ATOMS)


@pytest.mark.parametrize("pattern", ATOMS, ids=repr)
def test_patterns_are_frozen_plain_data(pattern: sp.Pattern) -> None:
    for field in dataclasses.fields(pattern):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(pattern, field.name, 1)
    assert pickle.loads(pickle.dumps(pattern)) == pattern
    assert copy.deepcopy(pattern) == pattern
    assert pattern.children() == ()
    assert list(pattern.walk()) == [pattern]


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (sp.Window(256, 256), "Window(256, 256)"),
        (sp.Window(256, 0, 2), "Window(256, 0, 2)"),
        (sp.Global((3, 0)), "Global((0, 3))"),
        (sp.Global(range(64)), "Global(range(0, 64))"),
        (sp.Global((0, 1, 2, 4, 5)), "Global((0, 1, 2, 4, 5))"),
        (sp.Global((0,), rows=False), "Global((0,), rows=False)"),
        (sp.BatchGlobal(rows=False), "BatchGlobal(rows=False)"),
        (sp.RandomBlocks(64, 3), "RandomBlocks(64, 3)"),
    ],
)
def test_repr_is_short(pattern: sp.Pattern, text: str) -> None:
    assert repr(pattern) == text


def test_window_around_is_the_two_sided_width() -> None:
    assert sp.Window.around(512) == sp.Window(256, 256)
    assert sp.Window.around(0) == sp.Window(0, 0)
    assert sp.Window.around((2, 4), 3) == sp.Window((1, 2), (1, 2), 3)
    assert sp.Window.around([2, 4]) == sp.Window([1, 2], [1, 2])
    assert sp.Window.around(sp.linear(32, 512)) == sp.Window(sp.linear(16, 256), sp.linear(16, 256))


@pytest.mark.parametrize("width", [3, (2, 3), [2, 3], sp.linear(3, 8)])
def test_odd_widths_are_refused(width: object) -> None:
    with pytest.raises(ValueError, match=r"width must be even \(half on each side\), got 3"):
        sp.Window.around(width)


def test_window_before() -> None:
    assert sp.Window.before(7) == sp.Window(7, 0)
    assert sp.Window.before((7, 8), 2) == sp.Window((7, 8), 0, 2)


def test_a_list_is_per_layer_and_a_tuple_per_head() -> None:
    assert sp.Window([1, 2], 0).left == Listed((1, 2))
    assert sp.Window((1, 2), 0).left == (1, 2)
    assert sp.Window([1, 2], 0) != sp.Window((1, 2), 0)


def test_global_tokens_are_sorted_and_distinct() -> None:
    assert sp.Global([3, 0, 3]) == sp.Global((0, 3))
    assert sp.Global(iter((1, 0))) == sp.Global((0, 1))
    assert sp.Global(torch.tensor([1, 0]).tolist()) == sp.Global(np.array([0, 1]))


def test_global_positions() -> None:
    pattern = sp.Global((0, 5, -1, -6))
    assert pattern.positions(6) == (0, 5)
    assert pattern.positions(5) == (0, 4)
    assert pattern.positions(10) == (0, 4, 5, 9)
    assert pattern.positions(0) == ()


def test_numbers_of_numpy_become_plain_ones() -> None:
    four = np.int64(4)
    for pattern, plain in [
        (sp.Window(four, (four, four), four), sp.Window(4, (4, 4), 4)),
        (sp.Global([four]), sp.Global((4,))),
        (sp.Strided(four), sp.Strided(4)),
        (sp.LocalBlock(four), sp.LocalBlock(4)),
        (sp.Summary(four, four), sp.Summary(4, 4)),
        (sp.RandomBlocks(four, four, four), sp.RandomBlocks(4, 4, 4)),
        (sp.BlockTable(("1",), four), sp.BlockTable(("1",), 4)),
    ]:
        assert repr(pattern) == repr(plain)


def test_block_tables_know_whether_they_are_per_head() -> None:
    shared = torch.tensor([[1, 0], [0, 1]]).bool()
    assert sp.BlockTable(shared, 4) == sp.BlockTable(("10", "01"), 4)
    assert not sp.BlockTable(shared, 4).per_head
    assert sp.BlockTable(shared.expand(3, 2, 2), 4).per_head
    assert not sp.BlockTable((), 4).per_head


def test_a_rule_is_named_after_its_function() -> None:
    assert sp.Rule(every_third).name == "every_third"
    assert sp.Rule(every_third, name="mine").name == "mine"

    class Callable:
        def __call__(self, q, k, head):
            return q == k

    assert sp.Rule(Callable()).name == "rule"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: sp.Window(-1, 0), ValueError, "window left must be >= 0, got -1"),
        (lambda: sp.Window(0, -2), ValueError, "window right must be >= 0, got -2"),
        (lambda: sp.Window(0, 0, 0), ValueError, "window dilation must be >= 1, got 0"),
        (lambda: sp.Window((0, -3), 0), ValueError, "left must be >= 0, got -3 for head 1"),
        (lambda: sp.Window((), 0), ValueError, "window left .* got an empty tuple"),
        (lambda: sp.Window([], 0), ValueError, "over layers must not be empty"),
        (lambda: sp.Window([1, -1], 0), ValueError, r"left in \[1, -1\] must be >= 0, got -1"),
        (lambda: sp.Window(0, 0, sp.linear(1, 0)), ValueError, r"dilation in linear\(1, 0\)"),
        (lambda: sp.Window(1.5, 0), TypeError, r"window left must be an int, got 1\.5"),
        (lambda: sp.Window(True, 0), TypeError, "window left must be an int, got True"),
        (lambda: sp.Window(0, None), TypeError, "window right must be an int, got None"),
        (lambda: sp.Window(0, (1, "2")), TypeError, "must be an int, got '2' for head 1"),
        (lambda: sp.Window.around(-2), ValueError, "window width must be >= 0, got -2"),
        (lambda: sp.Global(3), TypeError, "global tokens must be a sequence of ints, got 3"),
        (lambda: sp.Global("3"), TypeError, "global tokens must be a sequence of ints, got '3'"),
        (lambda: sp.Global((1.0,)), TypeError, r"global token must be an int, got 1\.0"),
        (lambda: sp.Global((0,), rows=1), TypeError, "global rows must be True or False, got 1"),
        (lambda: sp.BatchGlobal(0), TypeError, "batch global rows must be True or False, got 0"),
        (lambda: sp.Strided(0), ValueError, "stride must be >= 1, got 0"),
        (lambda: sp.Strided((1, 2)), TypeError, r"stride must be an int, got \(1, 2\)"),
        (lambda: sp.LocalBlock(0), ValueError, "local block size must be >= 1, got 0"),
        (lambda: sp.Summary(0, 1), ValueError, "summary size must be >= 1, got 0"),
        (lambda: sp.Summary(4, 0), ValueError, "summary columns must be >= 1, got 0"),
        (lambda: sp.Summary(4, 5), ValueError, r"columns must be <= size \(4\), got 5"),
        (lambda: sp.RandomBlocks(0, 1), ValueError, "random blocks block must be >= 1, got 0"),
        (lambda: sp.RandomBlocks(1, -1), ValueError, "per_row must be >= 0, got -1"),
        (lambda: sp.RandomBlocks(1, 1, 2**63), ValueError, "random blocks seed must be <="),
        (lambda: sp.RandomBlocks(1, 1, 0.5), TypeError, r"seed must be an int, got 0\.5"),
        (lambda: sp.BlockTable(("1",), 0), ValueError, "block table block must be >= 1, got 0"),
        (lambda: sp.BlockTable(("1", "10"), 1), ValueError, "block table rows must have one"),
        (lambda: sp.BlockTable("10", 1), TypeError, "block table must be rows of 0 and 1"),
        (lambda: sp.Rule(3), TypeError, r"rule fn must be callable as fn\(q, k, head\), got 3"),
    ],
)
def test_wrong_fields_are_refused(make, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("other", [1, None, True, "full", torch.ones(2)])
def test_only_patterns_combine(other: object) -> None:
    with pytest.raises(TypeError):
        sp.Causal() | other
    with pytest.raises(TypeError):
        other & sp.Causal()
