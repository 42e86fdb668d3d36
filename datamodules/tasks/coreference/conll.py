"""CoNLL-2012 columns: documents with coreference in the last one, read and written.

A file has documents in parts, each between a `#begin document (name); part 000` line and an
`#end document` line, a word a line, and an empty line after each sentence. A cluster's number with
an opening bracket is where a mention of it begins, with a closing one where it ends; mentions may
be nested and may cross.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from datamodules.files.documents import Document
from datamodules.files.records import RecordError
from datamodules.files.text_records import lines, texts
from datamodules.tasks.coreference.records import Cluster, CorefDocument

__all__ = ["conll_documents", "conll_text"]

_BEGIN = re.compile(r"#\s*begin document \(?(.*?)\)?(?:;\s*part\s+(\S+))?\s*")
_BRACKET = re.compile(r"(\()?(\d+)(\))?")
_WORD_COLUMN, _SPEAKER_COLUMN = 3, 9
_FEWEST_COLUMNS = 5
# Signs for "nothing", besides an empty column.
_NOTHING = ("", "-", "_")


@dataclass
class _Open:
    """The part that is being read."""

    document: Document
    name: str
    part: str
    sentences: list[tuple[str, ...]] = field(default_factory=list)
    speakers: list[tuple[str, ...]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    said_by: list[str] = field(default_factory=list)
    place: int = 0
    begun: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    clusters: dict[str, Cluster] = field(default_factory=dict)
    problem: RecordError | None = None

    @property
    def id(self) -> str:
        """The name and the number of the part."""
        return f"{self.name}_{int(self.part)}" if self.part.isdecimal() else self.name

    def fail(self, number: int, column: str, problem: str) -> None:
        """Note the first thing that is wrong with the part."""
        if self.problem is None:
            problem = f"{problem} (line {number})"
            self.problem = RecordError(self.document, self.id, column, problem)

    def word(self, number: int, line: str) -> None:
        """Read a line with a word."""
        columns = line.split("\t") if "\t" in line else line.split()
        if len(columns) < _FEWEST_COLUMNS:
            self.fail(number, "columns", f"a word has {_FEWEST_COLUMNS} or more, got {line!r:.60}")
            return
        self.words.append(columns[_WORD_COLUMN])
        has_speaker = len(columns) > _SPEAKER_COLUMN + 1
        speaker = columns[_SPEAKER_COLUMN].strip() if has_speaker else ""
        self.said_by.append("" if speaker in _NOTHING else speaker)
        last = columns[-1].strip()
        for bracket in last.split("|") if last not in _NOTHING else ():
            self.bracket(number, bracket)
        self.place += 1

    def bracket(self, number: int, text: str) -> None:
        """Read one mark of a mention."""
        match = _BRACKET.fullmatch(text)
        if match is None or not (match[1] or match[3]):
            self.fail(number, "coreference", f"must be like (0), (0 or 0), got {text!r}")
            return
        opens, cluster, closes = match.groups()
        if opens:
            self.begun[cluster].append(self.place)
        if closes:
            if not self.begun[cluster]:
                problem = f"a mention of cluster {cluster} ends that was not begun"
                self.fail(number, "coreference", problem)
                return
            # The last one begun is the first to end.
            self.clusters.setdefault(cluster, []).append((self.begun[cluster].pop(), self.place))

    def sentence(self) -> None:
        """End a sentence."""
        if self.words:
            self.sentences.append(tuple(self.words))
            self.speakers.append(tuple(self.said_by))
            self.words, self.said_by = [], []

    def end(self, number: int) -> CorefDocument | RecordError:
        """Return what was read."""
        self.sentence()
        left = sorted(cluster for cluster, places in self.begun.items() if places)
        if left:
            problem = f"a mention of cluster {left[0]} does not end"
            self.fail(number, "coreference", problem)
        if not self.sentences:
            self.fail(number, "words", "there are none")
        if self.problem is not None:
            return self.problem
        return CorefDocument(
            self.id,
            str(self.document),
            tuple(self.sentences),
            tuple(self.speakers),
            tuple(sorted(map(sorted, self.clusters.values()))),
            self.name,
            self.part,
        )


def conll_documents(document: Document) -> Iterator[CorefDocument | RecordError]:
    """Yield the parts of a file of CoNLL-2012 columns.

    Columns are separated by tabs, or by white space where a line has none. The fourth is the word,
    the tenth the speaker, the last the coreference: empty, `_` or `-` for none.

    Raises:
        RecordError: The file ends within a part, or has words outside; what else is wrong with a
            part is yielded.
        ValueError: The text is not UTF-8.
    """
    part: _Open | None = None
    number = 0
    for number, line in enumerate(lines(texts(document)), 1):
        line = line.removesuffix("\r")
        begin = _BEGIN.fullmatch(line) if line.startswith("#") else None
        if begin is not None:
            if part is not None:
                break
            part = _Open(document, begin[1], begin[2] or "0")
        elif line.startswith("#end document") or line.startswith("# end document"):
            if part is None:
                raise RecordError(document, f"line {number}", "#end document", "nothing was begun")
            yield part.end(number)
            part = None
        elif part is None:
            if line.strip() and not line.startswith("#"):
                problem = f"is missing before {line!r:.60}"
                raise RecordError(document, f"line {number}", "#begin document", problem)
        elif line.strip():
            part.word(number, line)
        else:
            part.sentence()
    if part is not None:
        problem = f"is missing; the file is cut short at line {number}"
        raise RecordError(document, part.id, "#end document", problem)


def conll_text(
    documents: Iterable[tuple[CorefDocument, Iterable[Iterable[Sequence[int]]]]],
) -> str:
    """Return documents with predicted clusters as the official scorer reads them.

    Args:
        documents: Each with its clusters, lists of (first, last) word.
    """
    parts = []
    for document, clusters in documents:
        begins: dict[int, list[tuple[int, str]]] = defaultdict(list)
        ends: dict[int, list[tuple[int, str]]] = defaultdict(list)
        whole: dict[int, list[str]] = defaultdict(list)
        for number, cluster in enumerate(clusters):
            for first, last in cluster:
                if first == last:
                    whole[first].append(f"({number})")
                else:
                    begins[first].append((-last, f"({number}"))
                    ends[last].append((-first, f"{number})"))
        lines = [f"#begin document ({document.name}); part {document.part}"]
        place = 0
        for sentence in document.sentences:
            for number, word in enumerate(sentence):
                # The longest mention begins first; the one begun last ends first.
                marks = [mark for _, mark in sorted(begins[place])] + whole[place]
                marks += [mark for _, mark in sorted(ends[place])]
                columns = (document.name, document.part, str(number), word, "|".join(marks) or "-")
                lines.append("\t".join(columns))
                place += 1
            lines.append("")
        parts.append("\n".join([*lines, "#end document", ""]))
    return "".join(parts)
