"""Encoded examples on disk: written in pieces by several processes, read one at a time.

A data set's folder holds a folder for each piece and, when all are there, one with the index. Each
comes into being as a whole (see `datamodules.files.cache`), so a run that is killed goes on from
the pieces that are done.
"""

from __future__ import annotations

import array
import bisect
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.files.cache import cached_folder
from datamodules.files.records import Record, RecordError
from datamodules.tasks.rows import Example

__all__ = ["Counted", "Examples", "Piece", "encode_pieces", "gathered"]

R = TypeVar("R", bound=Record)

PIECE_RECORDS = 128
"""Records of a piece: what one process encodes at a time, and what a kill can cost."""


@dataclass(frozen=True)
class Piece:
    """What is in a piece.

    Attributes:
        folder: Its folder's name.
        count: Examples that have rows.
        notes: Ids of the records that each note is about.
    """

    folder: str
    count: int
    notes: dict[str, list[str]]


@dataclass
class _Encode(Dataset[Any], Generic[R]):
    """Encodes and writes the pieces it is asked for: (number, records)."""

    root: Path
    name: str
    key: Any
    encode: Callable[[R], Example]
    skip_bad: bool

    def __getitem__(self, piece: tuple[int, Sequence[R]]) -> Piece | RecordError:
        """Return what was written, or what is wrong with a record."""
        number, records = piece
        key = {"key": self.key, "piece": number, "ids": [record.id for record in records]}
        try:
            folder = cached_folder(
                self.root, f"{self.name}-{number:05d}", key, lambda f: self._fill(f, records)
            )
        except RecordError as error:
            return error
        return Piece(folder.name, **json.loads((folder / "piece.json").read_text()))

    def _fill(self, folder: Path, records: Sequence[R]) -> None:
        places = array.array("Q", [0])
        notes: dict[str, list[str]] = {}
        with (folder / "examples.bin").open("wb") as file:
            for record in records:
                try:
                    example = self.encode(record)
                except RecordError as error:
                    if not self.skip_bad:
                        raise
                    notes.setdefault(f"left out: {error.field}: {error.problem}", []).append(
                        record.id
                    )
                    continue
                for note in example.notes:
                    notes.setdefault(note, []).append(example.id)
                if example.rows:
                    file.write(pickle.dumps(example, protocol=5))
                    places.append(file.tell())
        (folder / "places.bin").write_bytes(places.tobytes())
        written = {"count": len(places) - 1, "notes": notes}
        (folder / "piece.json").write_text(json.dumps(written))


def encode_pieces(
    root: Path,
    name: str,
    key: Any,
    records: Iterable[R],
    encode: Callable[[R], Example],
    skip_bad: bool = False,
    workers: int = 0,
) -> list[Piece]:
    """Encode records, as many pieces at a time as there are workers, and write them.

    Args:
        root: The data set's folder.
        name: The split, which begins the names of the pieces.
        key: Plain data: everything that the result depends on.
        records: What is encoded; read while pieces are being encoded.
        encode: A pure function; to be sent to another process.
        skip_bad: Note records that raise `RecordError`, instead of raising it.
        workers: Processes; 0 encodes in this one.

    Returns:
        The pieces, in order.

    Raises:
        RecordError: A record is wrong, and `skip_bad` is not set.
    """
    work = _Encode(root, name, key, encode, skip_bad)
    pieces: list[Piece] = []
    loader = DataLoader(
        work,
        sampler=_numbered(records),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),
    )
    with _progress(name) as bar:
        for piece in loader:
            if isinstance(piece, RecordError):
                raise piece
            pieces.append(piece)
            bar.update(piece.count)
    return pieces


def _numbered(records: Iterable[R]) -> Iterator[tuple[int, list[R]]]:
    """Cut records into pieces."""
    number, piece = 0, []
    for record in records:
        piece.append(record)
        if len(piece) == PIECE_RECORDS:
            yield number, piece
            number, piece = number + 1, []
    if piece:
        yield number, piece


def _as_it_is(piece: Any) -> Any:
    return piece


def _progress(name: str) -> Any:
    """Return a bar that shows up for work of more than two seconds, on a terminal."""
    from tqdm import tqdm

    quiet = not sys.stderr.isatty() or bool(os.environ.get("CI"))
    return tqdm(desc=f"encoding {name}", unit=" examples", delay=2, leave=False, disable=quiet)


class Examples(Sequence[Example]):
    """The examples of one split, read from the disk when asked for.

    Args:
        root: The data set's folder.
        pieces: Its pieces, in order.
    """

    def __init__(self, root: Path, pieces: Sequence[Piece]) -> None:
        self.root = root
        self.pieces = [piece for piece in pieces if piece.count]
        self._ends = list(accumulate(piece.count for piece in self.pieces))

    def __len__(self) -> int:
        """Return how many there are."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        """Return example `index`.

        Raises:
            IndexError: There are fewer.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        number = bisect.bisect_right(self._ends, index)
        piece = self.pieces[number]
        place = index - (self._ends[number] - piece.count)
        folder = self.root / piece.folder
        with (folder / "places.bin").open("rb") as file:
            file.seek(8 * place)
            start, stop = array.array("Q", file.read(16))
        with (folder / "examples.bin").open("rb") as file:
            file.seek(start)
            example: Example = pickle.loads(file.read(stop - start))
        return example


class Counted:
    """Counts what passes."""

    def __init__(self, values: Iterable[Record]) -> None:
        self.values = values
        self.count = 0

    def __iter__(self) -> Iterator[Record]:
        for value in self.values:
            self.count += 1
            yield value


def gathered(notes: Mapping[str, Sequence[str]], pieces: Sequence[Piece]) -> dict[str, list[str]]:
    """Return the ids under each note, those of all pieces together."""
    found = {note: list(ids) for note, ids in notes.items()}
    for piece in pieces:
        for note, ids in piece.notes.items():
            found.setdefault(note, []).extend(ids)
    return found
