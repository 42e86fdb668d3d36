"""Every argument of every public function, driven with wrong types and values.

Each gives one error of this package, TypeError for a type and ValueError for a value, that names
the argument and what was given. A new public name or argument fails until it has a row in `table`.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import sparse_patterns as sp
from tests.contracts.arguments.table import CASES, Case, rule
from tests.contracts.arguments.wrong import CAUSAL

PACKAGE = Path(sp.__file__).parent
NOT_CALLED_BY_USERS = ("Plan", "Pattern", "Schedule")
"""What `plan` returns, and the bases of patterns and schedules, which take nothing."""


def parameters() -> Iterator[tuple[str, list[str]]]:
    """Yield every public callable with the names of its arguments."""
    methods: tuple[tuple[type, str], ...] = (
        (sp.Window, "around"),
        (sp.Window, "before"),
        (sp.KeyValueCache, "attend"),
        (sp.KeyValueCache, "reorder"),
        (sp.SparseSelfAttention, "forward"),
    )
    found = {name: getattr(sp, name) for name in sp.__all__}
    found |= {f"{owner.__name__}.{name}": getattr(owner, name) for owner, name in methods}
    for name, one in found.items():
        if callable(one) and name not in NOT_CALLED_BY_USERS:
            yield name, [key for key in inspect.signature(one).parameters if key != "self"]


def test_every_argument_has_a_row() -> None:
    wanted = {name: sorted(arguments) for name, arguments in parameters() if arguments}
    assert {name: sorted(case.wrong) for name, case in CASES.items()} == wanted


@pytest.mark.parametrize("name", CASES)
def test_the_right_call_is_taken(name: str) -> None:
    case = CASES[name]
    right = {"size": 4, "stride": 4, "part": CAUSAL, "parts": (CAUSAL,), "pattern": CAUSAL}
    right |= {"name": "a-name" if name == "register" else "mistral", "index": torch.tensor([0])}
    needed = [
        key
        for key, one in inspect.signature(case.call).parameters.items()
        if one.default is one.empty and one.kind is not one.VAR_KEYWORD and key not in case.right
    ]
    case.call(**case.right, **{key: right[key] for key in needed})


def combinations(case: Case) -> Iterator[tuple[str, Any, type[Exception]]]:
    """Yield every wrong value of every argument, with the error that it must give."""
    for argument, wrong in case.wrong.items():
        for error, given in ((TypeError, wrong.types), (ValueError, wrong.values)):
            for value in given:
                yield argument, value, error


@pytest.mark.parametrize("name", CASES)
def test_wrong_arguments(name: str) -> None:
    case, failed = CASES[name], []
    for argument, value, error in combinations(case):
        try:
            check(case, argument, value, error)
        except (AssertionError, pytest.fail.Exception) as caught:
            failed.append(f"{argument}={value!r}: {caught}")
    assert not failed, "\n\n".join(failed)


def check(case: Case, argument: str, value: Any, error: type[Exception]) -> None:
    """Hold one wrong call to its error: which it is, who raises it, and what it says."""
    with pytest.raises((TypeError, ValueError, Exception)) as caught:
        case.call(**{**case.right, argument: value})
    message, place = str(caught.value), traceback.extract_tb(caught.value.__traceback__)[-1]
    assert type(caught.value) is error, message
    assert PACKAGE in Path(place.filename).parents, f"raised by {place.filename}: {message}"
    assert (place.line or "").startswith("raise"), f"raised by {place.line}: {message}"
    assert case.words.get(argument, argument) in message
    assert is_shown(value, message), message


def is_shown(value: Any, message: str) -> bool:
    """Return whether a message says what the value is, or what of it is wrong."""
    if isinstance(value, torch.Tensor):
        if value.is_nested:
            return "nested" in message
        told = {str(value.dtype), str(value.layout), str(tuple(value.shape))}
        if value.numel() == 1 and value.layout == torch.strided:
            told |= {str(value.item()), str(value.tolist())}
        return any(text in message for text in told)
    if isinstance(value, sp.Pattern):
        parts = {part for part in value.walk()}
        names = {
            text for part in parts for text in (type(part).__name__, getattr(part, "name", ""))
        }
        return any(name and name.lower() in message.lower() for name in names)
    if isinstance(value, tuple | list | dict):
        told = {repr(value), f"{len(value)} values"}
        if not value:
            return any(text in message for text in (*told, "empty", "none"))
        return any(text in message for text in told) or any(is_shown(x, message) for x in value)
    told = {repr(value), str(value), type(value).__name__, repr(type(value))}
    return any(text in message for text in told)


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (None, TypeError, "rule '<lambda>' must return a bool tensor, got None"),
        (torch.ones(6, 6), TypeError, r"must return a bool tensor, got torch\.float32 tensor"),
        (torch.ones(5).bool(), ValueError, r"against k, \(6, 6\), got shape \(5,\)"),
        (torch.ones(3, 6, 6).bool(), ValueError, r"against k, \(6, 6\), got shape \(3, 6, 6\)"),
    ],
)
def test_what_a_rule_returns(result: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sp.dense_mask(rule(result), 6, heads=2)
