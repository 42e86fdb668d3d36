"""Records of a data set as they lie in its files, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Record", "RecordError", "field_of"]

_NAMES = {str: "text", list: "a list", dict: "an object", int: "a whole number", bool: "true/false"}


class RecordError(ValueError):
    """A record is not as it should be.

    Args:
        source: The file.
        record: The id of the record, or its place in the file.
        field: The field that is wrong.
        problem: What is wrong, and what is allowed.
    """

    def __init__(self, source: object, record: object, field: str, problem: str) -> None:
        super().__init__(str(source), str(record), field, problem)
        self.source, self.record, self.field, self.problem = self.args

    def __str__(self) -> str:
        return f"{self.source}: record {self.record!r}: {self.field}: {self.problem}"


@dataclass(frozen=True)
class Record:
    """One record; a task derives its own with more fields.

    Attributes:
        id: Differs from that of every other record of the split.
        source: The file it comes from, for messages.
    """

    id: str
    source: str


def field_of(
    value: Mapping[str, Any], name: str, kind: type, source: object, record: object
) -> Any:
    """Return a field of a JSON object.

    Args:
        value: The object.
        name: The field.
        kind: What it must be: str, list, dict, int or bool.
        source: The file, for the message.
        record: The id of the record or its place, for the message.

    Raises:
        RecordError: `value` is no object, the field is missing, or of another type.
    """
    if not isinstance(value, Mapping):
        raise RecordError(
            source, record, name, f"the record must be an object, got {_short(value)}"
        )
    if name not in value:
        known = ", ".join(value) or "none"
        raise RecordError(source, record, name, f"is missing; fields there are: {known}")
    found = value[name]
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        raise RecordError(source, record, name, f"must be {_NAMES[kind]}, got {_short(found)}")
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
