"""Records to rows of tokens, once, by several processes, into a cache."""

from __future__ import annotations

import copy
import json
import os
import sys
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch.utilities import rank_zero_only

from datamodules.files.cache import cache_root, cached_folder, digest_of
from datamodules.files.records import Record, RecordError
from datamodules.files.splitting import SplitName
from datamodules.loading.resumable import check_at_least
from datamodules.tasks.records import RecordData
from datamodules.tasks.rows import Example, Long, Role, Row, Tokens, windows
from datamodules.tasks.store import Counted, Examples, Piece, encode_pieces, gathered
from datamodules.tokenizers.task import TaskTokenizer

__all__ = ["EncodedData"]

# Part of every key: to be changed with the way examples are written.
_FORMAT = 1
_IDS_TOLD = 5
_SMALL_BYTES = 1 << 22
_MOST_WORKERS = 16


class EncodedData(RecordData):
    """Encodes records: the second part of `datamodules.tasks.base.TaskData`.

    The result is kept on disk under a key of the files' contents and all settings it depends on.
    What is cut or missing is reported when records are encoded, in a line for each kind, with ids;
    all ids are in `notes(split)`.

    Attributes:
        verbose: Whether that is reported again by each later run.
        marks: Special tokens of the task; they follow the tokenizer's vocabulary.
        version: To be raised when `read` or `encode` changes, so that old caches are not used.

    Args:
        tokenizer: A JSON file of the `tokenizers` library, the folder of a Hugging Face model,
            "words" or "words:N" (hashed words, nothing to download), or "bytes".
        max_length: Tokens of a row, special ones included.
        long: What becomes of a text that is longer: "cut" keeps its beginning, "chunks" makes
            several rows of it.
        overlap: Tokens that a chunk has in common with the one before.
        max_chunks: The first so many chunks of a text are kept; None keeps all.
        preprocess_workers: Processes that encode; None takes the processors there are, at most 16,
            and for small files none.
        **kwargs: As in `RecordData`: path, train, val, test, limit, batch_size, and more.
    """

    marks: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1
    verbose: bool = False

    def __init__(
        self,
        *,
        tokenizer: str = "words",
        max_length: int = 4096,
        long: Long = "cut",
        overlap: int = 128,
        max_chunks: int | None = None,
        preprocess_workers: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(8, max_length=max_length)
        check_at_least(0, overlap=overlap)
        if max_chunks is not None:
            check_at_least(1, max_chunks=max_chunks)
        if preprocess_workers is not None:
            check_at_least(0, preprocess_workers=preprocess_workers)
        if long not in ("cut", "chunks"):
            raise ValueError(f"long must be 'cut' or 'chunks', got {long!r}")
        self.max_length = max_length
        self.long: Long = long
        self.overlap = overlap
        self.max_chunks = max_chunks
        self.preprocess_workers = preprocess_workers
        self.tokenizer = TaskTokenizer(tokenizer, self.marks)
        self._examples: dict[SplitName, Examples] | None = None
        self._notes: dict[SplitName, dict[str, list[str]]] = {}
        self._records: dict[SplitName, int] = {}
        self._told = False
        self._folder: Path | None = None

    @abstractmethod
    def encode(self, record: Any, split: SplitName) -> Example:
        """Return the rows and labels of a record.

        A pure function of the record and of what `settings` names: it runs in other processes, and
        its results are kept.

        Raises:
            RecordError: The record is not as it should be.
        """

    def settings(self) -> dict[str, Any]:
        """Return what `read` and `encode` depend on besides the base's fields, as plain data."""
        return {}

    @property
    def vocabulary_size(self) -> int:
        """How many different tokens there are, the task's marks included."""
        return self.tokenizer.vocabulary_size

    @property
    def pad_id(self) -> int:
        """What rows are padded with."""
        return self.tokenizer.pad_id

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens."""
        return self.tokenizer.decode(ids)

    def pieces(self, text: str, role: int = Role.TEXT) -> Tokens:
        """Return the tokens of a text, pointing nowhere."""
        return Tokens.of(self.tokenizer.encode(text)[0], role)

    def placed_pieces(self, text: str, role: int = Role.TEXT) -> Tokens:
        """Return the tokens of the example's text, with their places in it."""
        ids, places = self.tokenizer.encode(text)
        return Tokens.of(ids, role, places)

    def first(self) -> Tokens:
        """Return the token that begins a row."""
        return Tokens.of([self.tokenizer.first_id], Role.FIRST)

    def separator(self) -> Tokens:
        """Return the token between and after texts."""
        return Tokens.of([self.tokenizer.separator_id], Role.SEPARATOR)

    def mark(self, name: str, role: int) -> Tokens:
        """Return one of the task's special tokens."""
        return Tokens.of([self.tokenizer.mark_id(name)], role)

    def rows(
        self, record: Record, prefix: Tokens, body: Tokens, suffix: Tokens
    ) -> tuple[list[Row], list[str]]:
        """Cut or chunk a body between what every row begins and ends with.

        Returns:
            The rows, and a note where the body was cut.

        Raises:
            RecordError: The prefix leaves too little room.
        """
        room = self.max_length - len(prefix) - len(suffix)
        least = self.overlap + 1 if self.long == "chunks" else 1
        if room < least:
            raise RecordError(
                record.source,
                record.id,
                "length",
                f"what every row repeats takes {self.max_length - room} of max_length "
                f"{self.max_length} tokens, at least {least} must be left; raise max_length"
                + (" or lower overlap" if self.long == "chunks" else ""),
            )
        parts = windows(len(body), room, self.overlap, self.long)
        notes = []
        if self.max_chunks is not None and len(parts) > self.max_chunks:
            del parts[self.max_chunks :]
            notes.append(f"text cut to max_chunks {self.max_chunks}")
        elif parts[-1].stop < len(body):
            notes.append(f"text cut to max_length {self.max_length} tokens")
        rows = [Row(prefix + body.cut(p.start, p.stop) + suffix, {}, len(prefix), p) for p in parts]
        return rows, notes

    def prepare_data(self) -> None:
        """Encode everything, once for all runs and processes of this machine."""
        self._prepared()

    def setup(self, stage: str | None = None) -> None:
        """Open the encoded examples; if `verbose`, tell again what was cut or left out."""
        if self._examples is not None:
            return
        folder = self._prepared()
        index = json.loads((folder / "index.json").read_text())
        self._examples = {}
        for split, made in index.items():
            pieces = [Piece(**piece) for piece in made["pieces"]]
            self._examples[split] = Examples(folder.parent, pieces)
            self._notes[split] = gathered(made["notes"], pieces)
            self._records[split] = made["records"]
            if self.verbose and not self._told:
                self._tell(split, made["records"], self._notes[split])

    def examples(self, split: SplitName) -> Sequence[Example]:
        """Return the encoded examples of a split; () where there is no such split."""
        self.setup()
        assert self._examples is not None
        return self._examples.get(split, ())

    def notes(self, split: SplitName) -> dict[str, list[str]]:
        """Return what was cut, missing or left out, with the ids of the records."""
        self.setup()
        return self._notes.get(split, {})

    def sizes(self, split: SplitName) -> dict[str, int]:
        """Return how many records a split has, those left out included, and how many examples."""
        examples = len(self.examples(split))
        return {"records": self._records.get(split, 0), "examples": examples}

    def _alone(self) -> Any:
        """Return this without what cannot be sent to another process."""
        alone = copy.copy(self)
        alone.trainer = None
        alone._examples = None
        alone._progress = None
        return alone

    def _key(self) -> dict[str, Any]:
        root = cache_root(self.cache_dir)
        fractions = {split: share for split, share in self.fractions.items() if share}
        return {
            "format": _FORMAT,
            "task": [type(self).__module__, type(self).__qualname__, self.version],
            "files": {
                split: [[document.name, document.digest(root)] for document in documents]
                for split, documents in self.documents().items()
            },
            "tokenizer": self.tokenizer.fingerprint,
            "rows": [
                self.max_length,
                self.long,
                [self.overlap, self.max_chunks] if self.long == "chunks" else [],
            ],
            "records": [self.limit, self.skip_bad_records, fractions],
            "settings": self.settings(),
        }

    def _prepared(self) -> Path:
        """Return the folder with the index of all encoded examples, made if it is not there."""
        if self._folder is not None and self._folder.is_dir():
            return self._folder
        key = self._key()
        name = type(self).__name__.lower()
        root = cache_root(self.cache_dir) / f"{name}-{digest_of(key)}"
        self._folder = cached_folder(root, "index", key, lambda f: self._write(f, root, key))
        return self._folder

    def _write(self, folder: Path, root: Path, key: Any) -> None:
        index = {}
        for split in self.splits():
            bad: dict[str, list[str]] = {}
            records = Counted(self.good_records(split, bad))
            work = _Encoder(self._alone(), split)
            pieces = encode_pieces(
                root, split, key, records, work, self.skip_bad_records, self._workers(split)
            )
            # What could not be read is none of those that came to be encoded.
            read = records.count + sum(map(len, bad.values()))
            index[split] = {
                "pieces": [vars(piece) for piece in pieces],
                "notes": bad,
                "records": read,
            }
            self._tell(split, read, gathered(bad, pieces))
        self._told = True
        (folder / "index.json").write_text(json.dumps(index))

    def _workers(self, split: SplitName) -> int:
        if self.preprocess_workers is not None:
            return self.preprocess_workers
        # Starting processes takes longer than encoding a few small files.
        size = sum(document.path.stat().st_size for document in self.documents().get(split, []))
        few = size < _SMALL_BYTES or (self.limit is not None and self.limit < 512)
        return 0 if few else min(os.cpu_count() or 1, _MOST_WORKERS)

    @rank_zero_only
    def _tell(self, split: SplitName, records: int, notes: dict[str, list[str]]) -> None:
        for note, ids in notes.items():
            told = ", ".join(ids[:_IDS_TOLD])
            more = f" and {len(ids) - _IDS_TOLD} more" if len(ids) > _IDS_TOLD else ""
            print(
                f"{type(self).__name__} {split}: {len(ids)} of {records}: {note} ({told}{more})",
                file=sys.stderr,
            )


class _Encoder:
    """A task's `encode` for one split; can be sent to another process."""

    def __init__(self, data: EncodedData, split: SplitName) -> None:
        self.data = data
        self.split: SplitName = split

    def __call__(self, record: Any) -> Example:
        return self.data.encode(record, self.split)
