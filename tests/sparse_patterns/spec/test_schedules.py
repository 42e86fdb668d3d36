import dataclasses

import numpy as np
import pytest

import sparse_patterns as sp
from sparse_patterns.spec.schedules import Listed, Schedule, map_value, number


def over(schedule: Schedule, layers: int) -> list:
    return [schedule.at(layer, layers) for layer in range(layers)]


SCHEDULES = [
    sp.linear(32, 512),
    sp.geometric(32, 512),
    sp.steps((32, 2), ((1, 2), 3)),
    sp.spread(1, 1, (2, 4)),
    Listed((1, (2, 3))),
    sp.geometric(32, 512) - 1,
    sp.linear(32, 512) + 3,
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_repr_can_be_pasted_back(schedule: Schedule) -> None:
    window = sp.Window(schedule, 0)
    assert eval(repr(window), vars(sp)) == window
    assert hash(eval(repr(window), vars(sp))) == hash(window)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_schedules_are_frozen(schedule: Schedule) -> None:
    name = dataclasses.fields(schedule)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(schedule, name, 3)


def test_linear() -> None:
    assert over(sp.linear(0, 8), 5) == [0, 2, 4, 6, 8]
    assert over(sp.linear(8, 0), 5) == [8, 6, 4, 2, 0]
    assert over(sp.linear(32, 512), 12) == [round(32 + 480 * layer / 11) for layer in range(12)]
    assert over(sp.linear(3, 9), 1) == [3]
    assert over(sp.linear(3, 9), 2) == [3, 9]


def test_geometric() -> None:
    assert over(sp.geometric(32, 512), 5) == [32, 64, 128, 256, 512]
    assert over(sp.geometric(512, 32), 5) == [512, 256, 128, 64, 32]
    assert over(sp.geometric(3, 9), 1) == [3]
    assert over(sp.geometric(1, 10), 4) == [1, 2, 5, 10]


def test_steps_of_the_ablation_average_229() -> None:
    """Longformer's autoregressive ablation: windows in groups of layers, on average about 230."""
    schedule = sp.steps((32, 2), (64, 2), (128, 2), (256, 3), (512, 3))
    values = over(schedule, 12)
    assert values == [32] * 2 + [64] * 2 + [128] * 2 + [256] * 3 + [512] * 3
    assert round(sum(values) / 12) == 229


def test_spread_is_the_papers_dilation_for_any_number_of_layers() -> None:
    schedule = sp.spread(1, 1, 1, 2, 3, 4)
    assert over(schedule, 12) == [1] * 6 + [2, 2, 3, 3, 4, 4]
    assert over(schedule, 6) == [1, 1, 1, 2, 3, 4]
    assert over(schedule, 3) == [1, 1, 3]
    assert over(schedule, 1) == [1]
    assert over(sp.spread(1, 2), 5) == [1, 1, 1, 2, 2]


def test_listed_is_a_list_in_a_field() -> None:
    assert sp.Window([1, 2], 0).left == Listed((1, 2))
    assert over(Listed((1, [2, 3])), 2) == [1, (2, 3)]


@pytest.mark.parametrize(
    ("schedule", "doubled"),
    [
        (sp.linear(1, 5), sp.linear(2, 10)),
        (sp.geometric(1, 5), sp.geometric(2, 10)),
        (sp.steps((1, 2), ((3, 4), 1)), sp.steps((2, 2), ((6, 8), 1))),
        (sp.spread(1, (2, 3)), sp.spread(2, (4, 6))),
        (Listed((1, (2, 3))), Listed((2, (4, 6)))),
        (sp.geometric(2, 5) - 1, sp.geometric(4, 10) - 2),
    ],
    ids=repr,
)
def test_map(schedule: Schedule, doubled: Schedule) -> None:
    assert schedule.map(lambda value: 2 * value) == doubled


def test_adding_moves_the_value_of_every_layer() -> None:
    assert over(sp.geometric(2, 512) - 1, 3) == [1, 31, 511]
    assert over(sp.linear(2, 5) - 1, 3) == [1, 3, 4]
    assert (sp.geometric(2, 512) - 1).values() == (1, 511)
    assert sp.geometric(2, 512) + 2 - 2 == sp.geometric(2, 512)
    assert sp.geometric(2, 512) + 2 - 3 == sp.geometric(2, 512) - 1
    assert sp.steps(((1, 2), 3)) + 1 == sp.steps(((2, 3), 3))
    assert sp.spread(1, (2, 3)) - 1 == sp.spread(0, (1, 2))
    assert Listed((1, 2)) + 1 == Listed((2, 3))
    with pytest.raises(TypeError, match="what is added to a schedule must be an int"):
        sp.linear(1, 2) + 0.5
    with pytest.raises(ValueError, match="left"):
        sp.Window(sp.linear(1, 2) - 2, 0)


def test_map_value() -> None:
    assert map_value(3, lambda value: value + 1) == 4
    assert map_value((3, 5), lambda value: value + 1) == (4, 6)


def test_wrong_number_of_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"steps\(\(1, 2\), \(3, 4\)\) describes 6 layers.* has 5"):
        sp.steps((1, 2), (3, 4)).at(0, 5)
    with pytest.raises(ValueError, match=r"list \[1, 2\] describes 2 layers, the model has 3"):
        Listed((1, 2)).at(0, 3)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: sp.linear(1.0, 2), TypeError, r"linear start must be an int, got 1\.0"),
        (lambda: sp.linear(1, True), TypeError, "linear stop must be an int, got True"),
        (lambda: sp.geometric(0, 2), ValueError, "geometric start must be >= 1, got 0"),
        (lambda: sp.geometric(1, -2), ValueError, "geometric stop must be >= 1, got -2"),
        (lambda: sp.steps(), ValueError, r"steps needs at least one \(value, count\) pair"),
        (lambda: sp.steps((1, 0)), ValueError, "steps count must be >= 1, got 0"),
        (lambda: sp.steps((1, 2, 3)), ValueError, r"pairs, got \(1, 2, 3\)"),
        (lambda: sp.steps(5), TypeError, "pairs, got 5"),
        (lambda: sp.steps(("a", 1)), TypeError, "steps value must be an int, got 'a'"),
        (lambda: sp.spread(), ValueError, "spread values over layers must not be empty"),
        (lambda: sp.spread(1.5), TypeError, r"spread value must be an int, got 1\.5"),
        (lambda: sp.spread(()), ValueError, "spread value must be .* got an empty sequence"),
        (lambda: Listed(()), ValueError, "listed values over layers must not be empty"),
        (lambda: number("x", (), 0), ValueError, "x must be .* got an empty tuple"),
        (lambda: number("x", (1, -1), 0), ValueError, "x must be >= 0, got -1 for head 1"),
        (lambda: number("x", sp.linear(3, -1), 0), ValueError, r"x in linear\(3, -1\) .*got -1"),
        (lambda: number("x", [1, (2, -3)], 0), ValueError, r"x in \[1, \(2, -3\)\] .*got -3"),
        (lambda: number("x", "3", 0), TypeError, "x must be an int, got '3'"),
    ],
)
def test_wrong_numbers_are_refused(make, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_numbers_become_plain_ints() -> None:
    three = np.int64(3)
    for value in (
        sp.linear(three, three).start,
        sp.steps((three, three)).points[0][0],
        sp.steps((three, three)).points[0][1],
        sp.spread(three).items[0],
        number("x", three, 0),
        number("x", (three,), 0)[0],
    ):
        assert type(value) is int
