"""Questions of TriviaQA's official release: their answers, their evidence, what is verified."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datamodules.files.documents import Document
from datamodules.files.records import RecordError, field_of
from datamodules.files.text_records import texts
from datamodules.tasks.qa.trivia_records import TriviaRecord

__all__ = ["Release", "has_verified_marks", "is_verified", "is_verified_file"]

# Lists of a question's documents, and the folder of the evidence that each is in.
_LISTS = {"EntityPages": "wikipedia", "SearchResults": "web"}
_LOST = "some of its evidence documents are not there"
_VERIFIED = re.compile(r'(?<!\\)"VerifiedEval"\s*:\s*true')
_LONGEST_MARK = 64


@dataclass(frozen=True)
class Release:
    """How the questions of a file become records.

    Args:
        source: The file, for messages.
        evidence: Returns the folder with the folders `wikipedia` and `web`.
        domain: "wikipedia" is evaluated by question, "web" by question and document.
        together: Whether all documents of a question are one record; else each is one.
        scored: Whether the split is evaluated: then nothing that is scored may be absent.
        skip_bad: Whether a question without any evidence is no error.
    """

    source: str
    evidence: Callable[[], Path]
    domain: str
    together: bool
    scored: bool
    skip_bad: bool

    def records(self, value: Any, place: str, verified_only: bool) -> Iterator[TriviaRecord]:
        """Yield the records of a question.

        Args:
            value: The question, as it stands in the file.
            place: Where, for messages.
            verified_only: Whether documents of the web that are not verified are left out.

        Raises:
            RecordError: The question is not as it should be, or none of its evidence is there.
        """
        source = self.source
        id = field_of(value, "QuestionId", str, source, place)
        question = field_of(value, "Question", str, source, id)
        answers, spellings = _answers(value, source, id)
        files, verified = self._files(value, id, verified_only)
        there = {file: path for file, path in files.items() if path.is_file()}
        if not there and not (self.scored and self.skip_bad):
            if not files:
                raise RecordError(source, id, "EntityPages", "the question has no evidence")
            problem = f"there is no {next(iter(files.values()))}"
            raise RecordError(source, id, "Filename", problem)

        def record(own: str, paths: Iterator[Path], verified: bool) -> TriviaRecord:
            notes = (_LOST,) if own == first and len(there) < len(files) else ()
            given = tuple(map(str, paths))
            return TriviaRecord(
                own, source, question, id, given, "", answers, spellings, verified, notes
            )

        # On the web each pair is scored, also that with a document that is not there.
        pairs = files if not there or (self.scored and self.domain == "web") else there
        names = [id] if self.together or not files else [f"{id}--{file}" for file in pairs]
        first = names[0]
        if first == id:
            yield record(id, iter(there.values()), bool(verified))
            return
        for name, file in zip(names, pairs, strict=True):
            yield record(name, iter([there[file]] if file in there else []), file in verified)

    def _files(self, value: Any, id: str, verified_only: bool) -> tuple[dict[str, Path], set[str]]:
        """Return the documents of a question, and which are verified."""
        folder = self.evidence()
        files: dict[str, Path] = {}  # a page may be in both lists
        verified = set()
        for name, part in _LISTS.items():
            listed = field_of(value, name, list, self.source, id) if name in value else []
            for page in listed:
                file = field_of(page, "Filename", str, self.source, id)
                # The scripts look at the documents on the web alone.
                right = is_verified(value, "Question") and (
                    self.domain == "wikipedia" or is_verified(page, "Doc")
                )
                if verified_only and not right:
                    continue
                files[file] = folder / part / file
                if right:
                    verified.add(file)
        return files, verified


def has_verified_marks(question: Any) -> bool:
    """Return whether a question tells if it is verified."""
    return isinstance(question, Mapping) and "QuestionPartOfVerifiedEval" in question


def is_verified_file(document: Document) -> bool:
    """Return whether a file is that of the verified evaluation; it says so behind its questions."""
    before = ""
    for text in texts(document):
        if _VERIFIED.search(before + text):
            return True
        before = text[-_LONGEST_MARK:]
    return False


def is_verified(part: Mapping[str, Any], of: Literal["Question", "Doc"]) -> bool:
    """Return whether a question, or a document of one, belongs to the verified evaluation."""
    return bool(part.get(f"{of}PartOfVerifiedEval", False))


def _answers(value: Any, source: str, id: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what the official evaluation accepts, and all spellings of it."""
    if "Answer" not in value:  # the test set
        return (), ()
    answer = field_of(value, "Answer", dict, source, id)
    lists = {
        name: field_of(answer, name, list, source, id) if name in answer else []
        for name in ("NormalizedAliases", "HumanAnswers", "Aliases")
    }
    for name, spelled in lists.items():
        if not all(isinstance(text, str) for text in spelled):
            raise RecordError(source, id, name, f"must be a list of texts, got {spelled!r:.60}")
    main = [field_of(answer, "Value", str, source, id)]
    spellings = dict.fromkeys([*main, *lists["Aliases"], *lists["HumanAnswers"]])
    normalized = lists["NormalizedAliases"]
    accepted = [*normalized, *lists["HumanAnswers"]] if normalized else list(spellings)
    return tuple(accepted), tuple(dict.fromkeys([*spellings, *normalized]))
