"""Errors in one line."""

import errno
import os

import pytest
import torch
from torch import nn

from lit_modules.commands.errors import (
    UsageError,
    not_accepted,
    one_line,
    state_dict_mismatch,
    without_types,
)


class CheckpointError(RuntimeError):
    """Of the name of the error of unreadable checkpoints."""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UsageError("no command"), "no command"),
        (ValueError("left must be >= 0,\n   got -1"), "left must be >= 0, got -1"),
        (ImportError("no module"), "no module"),
        (CheckpointError("is damaged"), "is damaged"),
        (FileNotFoundError("--data x: no such file"), "--data x: no such file"),
        (RuntimeError("odd"), "RuntimeError: odd (--debug shows where)"),
        (KeyError("width"), "KeyError: 'width' (--debug shows where)"),
        (ValueError(), "ValueError: no message (--debug shows where)"),
        (AssertionError(), "AssertionError: no message (--debug shows where)"),
    ],
)
def test_the_line_of_an_error(error: Exception, line: str) -> None:
    assert one_line(error) == line


def test_an_error_of_the_system_names_the_file_and_no_number() -> None:
    reason = os.strerror(errno.ENOENT)
    assert one_line(FileNotFoundError(errno.ENOENT, reason, "/a/b.yaml")) == f"{reason}: /a/b.yaml"
    assert one_line(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device"


REPORT = """Parser key "model.left": Does not validate against any of the Union subtypes
Errors:
  - Expected a <class 'NoneType'>
  - Expected an int,
    which is a whole number. Given value type: <class 'str'>
  - Expected a list
Given value: x"""


def test_a_report_of_several_types_becomes_its_first_reason() -> None:
    assert without_types(REPORT) == "model.left: Expected an int, which is a whole number."


UNION = """Parser key "{key}":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'int'>, <class 'NoneType'>]
  Errors:
    - {reason}
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: {given}"""
UNIT = "typing.Literal['byte', 'token']"


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (
            "Parser key \"a.b\":\n  Expected a <class 'int'>. Got value: x",
            "a.b: expected int, got 'x'",
        ),
        (
            UNION.format(key="a.b", reason="Expected a <class 'int'>", given="x"),
            "a.b: expected int, got 'x'",
        ),
        (
            UNION.format(
                key="a.b", reason=f"Expected a <class 'int'>\n    - Expected a {UNIT}", given="x"
            ),
            "a.b: expected one of int, 'byte', 'token', got 'x'",
        ),
        (
            UNION.format(
                key="model",
                reason=f'Parser key "unit":\n        Expected a {UNIT}. Got value: bit',
                given="NestedArg(key='unit', val='bit')",
            ),
            "model.unit: expected one of 'byte', 'token', got 'bit'",
        ),
        (
            UNION.format(
                key="model", reason="width: expected int, got 'x'", given="NestedArg(key='width')"
            ),
            "model.width: expected int, got 'x'",
        ),
        (
            UNION.format(key="a.b", reason="Option 'x' is not accepted", given="[{'x': 3}]"),
            "a.b: Option 'x' is not accepted",
        ),
        (
            'Parser key "a":\nUnable to load config \'x\'\n  - Parser key "a": Unable to load it',
            "a: Unable to load config 'x'",
        ),
    ],
)
def test_a_report_says_what_is_expected_and_what_was_given(report: str, line: str) -> None:
    assert without_types(report) == line


def test_a_report_without_a_key_is_the_reason_alone() -> None:
    assert without_types("Bad value\nErrors:\n  - Expected an int") == "Expected an int"


@pytest.mark.parametrize("report", ["left must be >= 0", "Errors:\n  - Expected a NoneType"])
def test_a_report_without_a_reason_stays(report: str) -> None:
    assert without_types(report) == report


def test_a_wrong_option_gets_similar_names_and_all_names() -> None:
    message = not_accepted("Option 'lenght.x' is not accepted", ["width", "length", "depth"])
    assert message == (
        "Option 'lenght.x' is not accepted. Did you mean 'length'? Known: depth, length, width"
    )


def test_a_wrong_option_unlike_any_name_gets_all_names() -> None:
    message = not_accepted("Option 'q' is not accepted", ["width", "length"])
    assert message == "Option 'q' is not accepted. Known: length, width"


@pytest.mark.parametrize(
    ("message", "fields"), [("Option 'a' is not accepted", []), ("another error", ["width"])]
)
def test_without_names_or_option_the_message_stays(message: str, fields: list[str]) -> None:
    assert not_accepted(message, fields) == message


def _report(model: nn.Module, state: dict[str, torch.Tensor]) -> str:
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict(state)
    return state_dict_mismatch(str(caught.value))


def test_missing_weights_become_one_line_with_their_number() -> None:
    line = _report(nn.Linear(2, 3), {})
    assert 'Missing key(s) in state_dict: "weight" (and 1 more);' in line
    assert "\n" not in line
    assert line.startswith("the checkpoint is of another architecture than the model")


def test_the_first_difference_of_several_kinds_is_shown_with_the_number_of_others() -> None:
    state = {"weight": torch.zeros(5, 2), "bias": torch.zeros(5)}
    line = _report(nn.Linear(2, 3), state)
    assert "size mismatch for weight" in line
    assert "(and 1 more)" in line
    assert "[5, 2]" in line


def test_a_single_difference_has_no_number_of_others() -> None:
    line = _report(nn.Linear(2, 3, bias=False), {"weight": torch.zeros(5, 2)})
    assert "more)" not in line


def test_another_error_of_one_line_stays() -> None:
    assert state_dict_mismatch("Error(s) in loading state_dict") == "Error(s) in loading state_dict"
