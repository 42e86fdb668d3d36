"""Fields of records are checked, and what is wrong is one line."""

import pickle
from typing import Any

import pytest

from datamodules.files.records import RecordError, field_of


@pytest.mark.parametrize(
    ("value", "name", "kind", "message"),
    [
        ([1], "id", str, r"f\.json: record '7': id: the record must be an object, got \[1\]"),
        ({"a": 1, "b": 2}, "id", str, "id: is missing; fields there are: a, b"),
        ({}, "id", str, "id: is missing; fields there are: none"),
        ({"id": 3}, "id", str, "id: must be text, got 3"),
        ({"n": True}, "n", int, "n: must be a whole number, got True"),
        ({"n": 1}, "n", bool, "n: must be true/false, got 1"),
        ({"x": "a" * 99}, "x", list, "x: must be a list, got 'a{39}\\.\\.\\."),
    ],
)
def test_a_wrong_field_is_told(value: Any, name: str, kind: type, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        field_of(value, name, kind, "f.json", "7")


def test_a_right_field_is_returned() -> None:
    assert field_of({"id": "x"}, "id", str, "f", "1") == "x"
    assert field_of({"n": False}, "n", bool, "f", "1") is False


def test_an_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(RecordError("f", "1", "id", "is missing")))
    assert str(error) == "f: record '1': id: is missing"
    assert (error.source, error.record, error.field) == ("f", "1", "id")
