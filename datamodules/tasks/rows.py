"""Tokens of a task with what is known about each, and how long ones become rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

__all__ = ["Example", "Long", "Role", "Row", "Tokens", "windows"]

Long = Literal["cut", "chunks"]
"""What becomes of a text longer than a row: its beginning, or several rows that overlap."""


class Role(IntEnum):
    """What a token is in its row; rules for global tokens choose by it.

    A task of your own may use further numbers from 64 up to 255, with a rule of its own.
    """

    TEXT = 0
    FIRST = 1
    SEPARATOR = 2
    QUESTION = 3
    CANDIDATE = 4
    TITLE_MARK = 5
    TITLE = 6
    SENTENCE_MARK = 7
    PARAGRAPH_MARK = 8
    ANSWER_WORD = 9
    """The words "yes", "no" and the like, where they stand in the input to be pointed at."""


@dataclass(frozen=True)
class Tokens:
    """Tokens in a sequence.

    Attributes:
        ids: Token numbers.
        roles: A `Role` for each.
        offsets: Characters [start, stop) of each in the text of its example, (0, 0) for what is not
            a piece of that.
    """

    ids: list[int] = field(default_factory=list)
    roles: list[int] = field(default_factory=list)
    offsets: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def of(
        cls, ids: Sequence[int], role: int, offsets: Sequence[tuple[int, int]] | None = None
    ) -> Tokens:
        """Return tokens of one role; without `offsets` they point nowhere."""
        n = len(ids)
        return cls(list(ids), [int(role)] * n, list(offsets) if offsets else [(0, 0)] * n)

    @classmethod
    def joined(cls, parts: Sequence[Tokens]) -> Tokens:
        """Return the parts one after the other."""
        return cls(
            [i for part in parts for i in part.ids],
            [r for part in parts for r in part.roles],
            [o for part in parts for o in part.offsets],
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens.joined((self, other))

    def cut(self, start: int, stop: int) -> Tokens:
        """Return the tokens from `start` to `stop`, not included."""
        return Tokens(self.ids[start:stop], self.roles[start:stop], self.offsets[start:stop])


@dataclass
class Row:
    """One sequence for the encoder.

    Attributes:
        tokens: The sequence.
        columns: What a task knows about the row besides, such as the places of its answers.
        prefix: Tokens before the part of the body that is in this row.
        part: Which tokens of the body are in this row.
    """

    tokens: Tokens
    columns: dict[str, list[int]] = field(default_factory=dict)
    prefix: int = 0
    part: range = range(0)

    def place(self, index: int) -> int | None:
        """Return where token `index` of the body is in the row; None where it is not."""
        return self.prefix + index - self.part.start if index in self.part else None


@dataclass
class Example:
    """One record, encoded. It is kept on disk, so all of it is plain data.

    Attributes:
        id: The record's id.
        rows: Its sequences; none where the record is left out, which a note must tell.
        fields: What a task knows about the example, such as its label.
        notes: What was cut or is missing, a short phrase for each kind: records of the same note
            are counted together, and reported once.
    """

    id: str
    rows: list[Row]
    fields: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def windows(length: int, room: int, overlap: int, long: Long) -> list[range]:
    """Return which tokens of a text of `length` go into each row that has `room` for them.

    Args:
        length: Tokens of the text.
        room: Tokens of a row that are left for it, at least 1.
        overlap: Tokens that a row has in common with the one before, less than `room`.
        long: "cut" keeps the first row.
    """
    if long == "cut":
        return [range(min(length, room))]
    step = room - overlap
    count = 1 + max(0, -(-(length - room) // step))
    return [range(i * step, min(i * step + room, length)) for i in range(count)]
