import numpy as np
import pytest
import torch

from sparse_patterns.spec.fields import block_rows, boolean, integer


def test_integer_takes_integers_of_numpy_and_returns_plain_ones() -> None:
    for kind in (np.int64, np.int32, np.uint8, int):
        value = integer("x", kind(5), 5, 5)
        assert value == 5
        assert type(value) is int


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (True, TypeError, "x must be an int, got True"),
        (np.bool_(True), TypeError, r"x must be an int, got .*True"),
        (1.0, TypeError, r"x must be an int, got 1\.0"),
        ("1", TypeError, "x must be an int, got '1'"),
        (None, TypeError, "x must be an int, got None"),
        (1, ValueError, "^x must be >= 2, got 1 here$"),
        (10, ValueError, "^x must be <= 9, got 10 here$"),
    ],
)
def test_integer_refuses(value: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        integer("x", value, 2, 9, where=" here")


def test_boolean() -> None:
    assert boolean("x", True) is True
    for value in (0, 1, "yes", None):
        with pytest.raises(TypeError, match="x must be True or False, got"):
            boolean("x", value)


SHARED = ("10", "01", "11")


@pytest.mark.parametrize(
    "table",
    [
        ("10", "01", "11"),
        ["10", [0, 1], (True, True)],
        [[True, False], [False, True], [True, True]],
        [[1.0, 0.0], [0, 1], [1, 1]],
        np.array([[1, 0], [0, 1], [1, 1]]),
        [np.array([True, False]), np.array([False, True]), np.array([True, True])],
        torch.tensor([[1, 0], [0, 1], [1, 1]]).bool(),
        [torch.tensor([1, 0]), torch.tensor([0, 1]), torch.tensor([1, 1])],
        [[torch.tensor(True), np.bool_(False)], "01", "11"],
    ],
    ids=repr,
)
def test_every_form_of_a_table_is_the_same(table: object) -> None:
    assert block_rows("t", table) == SHARED


@pytest.mark.parametrize(
    "table",
    [
        (SHARED, SHARED),
        [list(SHARED), [[1, 0], [0, 1], [1, 1]]],
        torch.tensor([[1, 0], [0, 1], [1, 1]]).expand(2, 3, 2),
        [np.array([[1, 0], [0, 1], [1, 1]])] * 2,
    ],
    ids=repr,
)
def test_every_form_of_a_table_per_head_is_the_same(table: object) -> None:
    assert block_rows("t", table) == (SHARED, SHARED)


def test_tables_without_blocks() -> None:
    assert block_rows("t", []) == ()
    assert block_rows("t", [[], []]) == ("", "")
    assert block_rows("t", torch.zeros(3, 0)) == ("", "", "")
    assert block_rows("t", torch.zeros(2, 3, 0)) == (("", "", ""), ("", "", ""))


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ("10", TypeError, "t must be rows of 0 and 1, got '10'"),
        (3, TypeError, "t must be rows of 0 and 1, got 3"),
        ([1, 0], TypeError, "t rows must hold 0 and 1, got 1"),
        (["12"], TypeError, "t rows must hold 0 and 1, got '12'"),
        ([[10, 1]], TypeError, r"t rows must hold 0 and 1, got \[10, 1\]"),
        ([[0.5, 1]], TypeError, r"t rows must hold 0 and 1, got \[0\.5, 1\]"),
        ([[None]], TypeError, r"t rows must hold 0 and 1, got \[None\]"),
        ([[[[1]]]], TypeError, "t rows must hold 0 and 1"),
        (["10", "1"], ValueError, r"t rows must have one length, got lengths \[1, 2\]"),
        ([["10"], ["1"]], ValueError, r"t rows must have one length, got lengths \[1, 2\]"),
        ([["1"], ["1", "0"]], ValueError, r"as many rows for every head, got \[1, 2\]"),
        ([["1"], 3], TypeError, "got 3 for a layout"),
        ([["1"], "1"], TypeError, "got '1' for a layout"),
    ],
)
def test_wrong_tables_are_refused(table: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        block_rows("t", table)
