"""Coreference: OntoNotes as CoNLL-2012 released it, and what comes in the same formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.files.documents import Document
from datamodules.files.records import Record, RecordError
from datamodules.files.splitting import SplitName
from datamodules.loading.resumable import check_at_least
from datamodules.registry import register
from datamodules.tasks.base import TaskData, padded
from datamodules.tasks.batch import PADDING
from datamodules.tasks.coreference.conll import conll_documents, conll_text
from datamodules.tasks.coreference.records import Cluster, CorefDocument, coref_json, distinct
from datamodules.tasks.coreference.segments import segments
from datamodules.tasks.rows import Example, Role, Row, Tokens

__all__ = ["GENRES", "OntoNotes"]

GENRES = ("bc", "bn", "mz", "nw", "pt", "tc", "wb")
"""Genres of OntoNotes, by number from 1: the first part of a document's name. 0 is any other."""

_JSON = (".jsonl", ".jsonlines")
# OntoNotes escapes these marks.
_ESCAPED = {"/.": ".", "/?": "?"}


def _names(folder: str, stem: str) -> tuple[str, ...]:
    return (
        f"{folder}/data/english/annotations/**/*_gold_conll",
        f"{stem}.english.v4_gold_conll",
        f"{stem}.english.jsonlines",
        f"{stem}.conll",
        *(stem + ending for ending in _JSON),
    )


@register("ontonotes")
class OntoNotes(TaskData):
    """Who is meant by what in a document; one document a batch, rows are its segments.

    Official files: `*_gold_conll` columns in the folders of CoNLL-2012 or joined
    (`train.english.v4_gold_conll`), and JSON lines {doc_key, sentences, speakers, clusters}. Other
    data sets in these formats are read the same way, such as LitBank: `train=litbank.tar.xz`.
    No token is global.

    Args:
        segment_length: Tokens of a row, special ones included; a row ends where a sentence ends.
        max_segments: The first so many segments of a document are trained on, to bound memory;
            None takes all. Validation and test always have whole documents.
        singletons: Whether clusters of one mention are kept (OntoNotes has none).
        **kwargs: As in `TaskData`: path, train, val, test, val_fraction, tokenizer, batch_size (1
            for each process), and more.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    task = "coreference"
    global_rule = "none"
    official = MappingProxyType(
        {
            "train": _names("train", "train"),
            "val": (*_names("development", "dev"), "val.conll", *("val" + e for e in _JSON)),
            "test": _names("test", "test"),
        }
    )
    genres = 1 + len(GENRES)

    def __init__(
        self,
        *,
        segment_length: int = 4096,
        max_segments: int | None = None,
        singletons: bool = True,
        batch_size: int = 1,
        **kwargs: Any,
    ) -> None:
        check_at_least(8, segment_length=segment_length)
        if max_segments is not None:
            check_at_least(1, max_segments=max_segments)
        super().__init__(
            max_length=segment_length,
            long="chunks",
            overlap=0,
            max_chunks=None,
            batch_size=batch_size,
            **kwargs,
        )
        self.segment_length = segment_length
        self.max_segments = max_segments
        self.singletons = singletons

    def settings(self) -> dict[str, Any]:
        """Return what the examples depend on besides the base's fields."""
        return {"segments": self.max_segments, "singletons": self.singletons}

    def read(self, document: Document, split: SplitName) -> Iterator[Record | RecordError]:
        """Yield the documents of a file."""
        name = PurePath(document.member or document.name).name
        yield from (
            coref_json(document)
            if any(ending in name for ending in _JSON)
            else conll_documents(document)
        )

    def encode(self, record: CorefDocument, split: SplitName) -> Example:
        """Return the segments of a document, and what is known of its words."""
        if not record.words:
            raise RecordError(record.source, record.id, "sentences", "there is no word")
        room = self.segment_length - 2
        notes = []
        pieces = [[self._pieces(word) for word in sentence] for sentence in record.sentences]
        if not all(word for sentence in pieces for word in sentence):
            notes.append("words the tokenizer has no piece for stand as separators")
            unknown = [self.tokenizer.separator_id]
            pieces = [[word or unknown for word in sentence] for sentence in pieces]
        longest = max(len(word) for sentence in pieces for word in sentence)
        if longest > room:
            problem = f"a word of {longest} pieces is longer than segment_length allows, {room}"
            raise RecordError(record.source, record.id, "sentences", problem)
        parts, cut = segments(pieces, room)
        if cut:
            notes.append(f"sentence longer than segment_length {self.segment_length} cut")
        if split == "train" and self.max_segments is not None and len(parts) > self.max_segments:
            del parts[self.max_segments :]
            notes.append(f"document cut to max_segments {self.max_segments}")
        rows = [
            Row(
                self.first() + Tokens.of(part.ids, Role.TEXT) + self.separator(),
                {"words": [PADDING, *part.words, PADDING]},
            )
            for part in parts
        ]
        fields, more = self._fields(record, words=parts[-1].words[-1] + 1)
        return Example(record.id, rows, fields, notes + more)

    def labels(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return the fields of `CoreferenceBatch`.

        Raises:
            ValueError: There is more than one document.
        """
        if len(examples) != 1:
            raise ValueError(
                f"batch_size must be 1 document for each process, got {len(examples)} for this one"
            )
        example = examples[0]
        fields = example.fields
        return {
            "words": padded([row.columns["words"] for row in example.rows]),
            "sentences": torch.tensor(fields["sentences"]),
            "speakers": torch.tensor(fields["speakers"]),
            "genre": torch.tensor(fields["genre"]),
            "mentions": torch.tensor(fields["mentions"], dtype=torch.int64).reshape(-1, 2),
            "clusters": torch.tensor(fields["clusters"], dtype=torch.int64),
            "tokens": [fields["tokens"]],
        }

    def references(self, split: SplitName) -> Iterator[tuple[str, list[Cluster]]]:
        """Yield (id, clusters) of the documents whose clusters are known."""
        for record in self.good_records(split):
            if record.clusters is not None:
                yield record.id, self._clusters(record)[0]

    def submission(self, predictions: Iterable[Mapping[str, Any]]) -> str:
        """Return the official response file: CoNLL-2012 columns, documents in their order.

        Documents without a prediction are left out, with a warning.

        Raises:
            ValueError: There is a prediction for a document that the split does not have.
        """
        clusters = {p["id"]: p["clusters"] for p in predictions}
        split = self._predicted_split()
        parts = []
        missing = []
        for record in self.good_records(split):
            if record.id not in clusters:
                missing.append(record.id)
                continue
            found = clusters.pop(record.id)
            if any(_crossing(cluster) for cluster in found):
                rank_zero_warn(
                    f"{record.id}: mentions of one cluster that cross cannot be told in CoNLL "
                    "columns; they are read as nested"
                )
            parts.append((record, found))
        if clusters:
            raise ValueError(f"{split}: there is no document {next(iter(clusters))!r}")
        if missing:
            rank_zero_warn(
                f"the {split} split has {len(missing)} documents without a prediction, which the "
                f"response leaves out: {', '.join(missing[:5])}"
            )
        return conll_text(parts)

    def _predicted_split(self) -> SplitName:
        return self.predict_split or ("test" if "test" in self.splits() else "val")

    def _pieces(self, word: str) -> list[int]:
        return self.tokenizer.encode(_ESCAPED.get(word, word))[0]

    def _clusters(self, record: CorefDocument) -> tuple[list[Cluster], list[str]]:
        """Return the clusters of a document, and notes on what is not as in its file."""
        notes = []
        record, again = distinct(record)
        if again:
            notes.append("mention in more than one cluster: these are joined")
        clusters = list(record.clusters or ())
        if not self.singletons:
            several = [cluster for cluster in clusters if len(cluster) > 1]
            if len(several) < len(clusters):
                notes.append("clusters of one mention left out")
            clusters = several
        return clusters, notes

    def _fields(self, record: CorefDocument, words: int) -> tuple[dict[str, Any], list[str]]:
        """Return what is known of the first `words` words, and notes."""
        clusters, notes = self._clusters(record)
        mentions = sorted(
            (start, end, number)
            for number, cluster in enumerate(clusters)
            for start, end in cluster
            if end < words
        )
        if record.clusters is None:
            notes.append("no clusters, so it is not scored")
        order: dict[int, int] = {}
        speakers: dict[str, int] = {"": 0}
        said = [speaker for sentence in record.speakers for speaker in sentence][:words]
        numbers = [n for n, sentence in enumerate(record.sentences) for _ in sentence][:words]
        genre = record.name.split("/")[0]
        fields = {
            "sentences": numbers,
            "speakers": [speakers.setdefault(speaker, len(speakers)) for speaker in said],
            "genre": 1 + GENRES.index(genre) if genre in GENRES else 0,
            "mentions": [[start, end] for start, end, _ in mentions],
            "clusters": [order.setdefault(number, len(order)) for *_, number in mentions],
            "tokens": record.words[:words],
        }
        return fields, notes


def _crossing(cluster: Sequence[Sequence[int]]) -> bool:
    """Return whether two mentions overlap without one being within the other."""
    return any(a[0] < b[0] <= a[1] < b[1] for a in cluster for b in cluster)
