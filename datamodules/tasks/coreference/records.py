"""Documents with coreference: as records, and as JSON lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from datamodules.files.documents import Document
from datamodules.files.records import Record, RecordError, field_of
from datamodules.files.text_records import json_lines

__all__ = ["Cluster", "CorefDocument", "coref_json", "distinct"]

Cluster = list[tuple[int, int]]
"""Mentions of one thing: numbers of first and last word in the document, inclusive."""


@dataclass(frozen=True)
class CorefDocument(Record):
    """A document, or a part of one where it has several.

    Attributes:
        sentences: Its words, sentence by sentence.
        speakers: The speaker of each word, "" where it is not known.
        clusters: Groups of spans that mean the same thing; None where it is not known.
        name: What official files call the document.
        part: What they call the part.
    """

    sentences: tuple[tuple[str, ...], ...]
    speakers: tuple[tuple[str, ...], ...]
    clusters: tuple[Cluster, ...] | None
    name: str
    part: str

    @property
    def words(self) -> list[str]:
        """All words."""
        return [word for sentence in self.sentences for word in sentence]


def coref_json(document: Document) -> Iterator[CorefDocument | RecordError]:
    """Yield the documents of a file of JSON lines {doc_key, sentences, speakers, clusters}.

    Raises:
        RecordError: A line is no JSON; what else is wrong with a document is yielded.
    """
    for number, value in json_lines(document):
        try:
            yield _of_json(value, str(document), f"line {number}")
        except RecordError as error:
            yield error


def distinct(record: CorefDocument) -> tuple[CorefDocument, int]:
    """Return a document in which each mention is in one cluster, once, and how many were not.

    Clusters that share a mention become one: there are such in OntoNotes.
    """
    clusters: list[Cluster] = []
    owner: dict[tuple[int, int], Cluster] = {}
    again = 0
    for given in record.clusters or ():
        cluster: Cluster = []
        clusters.append(cluster)
        for mention in given:
            other = owner.get(mention)
            if other is None:
                owner[mention] = cluster
                cluster.append(mention)
                continue
            again += 1
            if other is not cluster:
                clusters.remove(other)
                cluster += other
                owner |= dict.fromkeys(other, cluster)
    if not again:
        return record, 0
    return replace(record, clusters=tuple(sorted(map(sorted, clusters)))), again


def _of_json(value: Any, source: str, place: str) -> CorefDocument:
    id = field_of(value, "doc_key", str, source, place)
    sentences = _lists(field_of(value, "sentences", list, source, id), source, id, "sentences")
    speakers = tuple(("",) * len(sentence) for sentence in sentences)
    if value.get("speakers"):
        said = _lists(field_of(value, "speakers", list, source, id), source, id, "speakers")
        if [*map(len, said)] != [*map(len, sentences)]:
            problem = "must have one for each word of each sentence"
            raise RecordError(source, id, "speakers", problem)
        speakers = tuple(tuple("" if s in ("-", "_") else s for s in one) for one in said)
    clusters = None
    if "clusters" in value:
        words = sum(map(len, sentences))
        clusters = _clusters(field_of(value, "clusters", list, source, id), words, source, id)
    name, _, part = id.rpartition("_")
    if not name or not part.isdecimal():
        name, part = id, "0"
    return CorefDocument(id, source, sentences, speakers, clusters, name, f"{int(part):03d}")


def _lists(value: Sequence[Any], source: str, id: str, field: str) -> tuple[tuple[str, ...], ...]:
    for number, sentence in enumerate(value):
        if not isinstance(sentence, list) or not all(isinstance(word, str) for word in sentence):
            problem = f"sentence {number} must be a list of texts, got {sentence!r:.60}"
            raise RecordError(source, id, field, problem)
    return tuple(tuple(sentence) for sentence in value)


def _clusters(value: Iterable[Any], words: int, source: str, id: str) -> tuple[Cluster, ...]:
    found = []
    for number, cluster in enumerate(value):
        if not isinstance(cluster, list) or not cluster:
            problem = f"cluster {number} must be a list with a mention, got {cluster!r:.60}"
            raise RecordError(source, id, "clusters", problem)
        for mention in cluster:
            span = isinstance(mention, list) and len(mention) == 2
            if not span or not all(type(place) is int for place in mention):
                problem = f"a mention must be [first, last], got {mention!r:.60}"
                raise RecordError(source, id, "clusters", problem)
            if not 0 <= mention[0] <= mention[1] < words:
                problem = f"mention {mention} is not within the {words} words of the document"
                raise RecordError(source, id, "clusters", problem)
        found.append([(start, end) for start, end in cluster])
    return tuple(found)
