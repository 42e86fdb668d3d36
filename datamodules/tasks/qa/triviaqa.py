"""TriviaQA: questions on long documents that are known to contain the answer, but not where."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from datamodules.files.archives import open_folder
from datamodules.files.cache import cache_root, digest_of
from datamodules.files.documents import Document
from datamodules.files.records import Record, RecordError, field_of
from datamodules.files.splitting import SplitName
from datamodules.files.text_records import json_array, whole_text
from datamodules.registry import register
from datamodules.tasks.qa.base import Asked, ExtractiveData
from datamodules.tasks.qa.spans import answer_spans
from datamodules.tasks.qa.trivia_records import (
    TriviaRecord,
    official_answers,
    question_of,
    squad_form,
)
from datamodules.tasks.rows import Example

__all__ = ["TriviaQA"]

# Lists of a question's documents, and the folder of the evidence that each is in.
_LISTS = {"EntityPages": "wikipedia", "SearchResults": "web"}
BETWEEN = "\n\n"
"""What stands between documents that are read together."""


@register("triviaqa")
class TriviaQA(ExtractiveData):
    """TriviaQA reading comprehension: long evidence, aliases, every occurrence of an answer.

    Reads the official release (a folder or archive with `qa/` and `evidence/`) and files in SQuAD's
    form with aliases. An occurrence of the answer or an alias is found by its words, without regard
    to case.

    Args:
        domain: Which part of the official release: "wikipedia" is evaluated by question, "web" by
            question and document.
        documents: "each" makes an example of each document of a question, with the id
            `question--document` as in the official scripts; the question's answer is that of the
            example with the highest score. "together" reads all documents of a question as one
            text.
        evidence: Folder with the folders `wikipedia` and `web`; None takes `evidence` beside the
            folder of the questions.
        whole_words: Whether an answer must begin and end where words do: "York" is then not found
            in "Yorkshire".
        **kwargs: As in `ExtractiveData`: path, train, val, test, tokenizer, max_length, long,
            max_question, batch_size, and more.
    """

    def __init__(
        self,
        *,
        domain: Literal["wikipedia", "web"] = "wikipedia",
        documents: Literal["each", "together"] = "each",
        evidence: str | None = None,
        whole_words: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if domain not in ("wikipedia", "web"):
            raise ValueError(f"domain must be 'wikipedia' or 'web', got {domain!r}")
        if documents not in ("each", "together"):
            raise ValueError(f"documents must be 'each' or 'together', got {documents!r}")
        self.domain = domain
        self.together = documents == "together"
        self.evidence = evidence
        self.whole_words = whole_words
        self.official = {
            "train": (f"{domain}-train.json", f"squad-{domain}-train*.json"),
            "val": (f"{domain}-dev.json", f"squad-{domain}-dev*.json"),
            "test": (f"{domain}-test-without-answers.json", f"squad-{domain}-test*.json"),
        }

    def settings(self) -> dict[str, Any]:
        """Return what decides the examples; evidence counts by its files' sizes and times."""
        return {
            **super().settings(),
            "together": self.together,
            "whole_words": self.whole_words,
            "evidence": [_listing(folder) for folder in self._evidence_folders()],
        }

    def _evidence_folders(self) -> list[Path]:
        parts = ("wikipedia",) if self.domain == "wikipedia" else ("wikipedia", "web")
        documents = chain.from_iterable(self.documents().values())
        roots = {self._find_evidence(document) for document in documents}
        return sorted(root / part for root in roots if root is not None for part in parts)

    def read(self, document: Document, split: SplitName) -> Iterator[Record | RecordError]:
        """Yield the questions of a file, or the pairs of question and document."""
        for number, value in enumerate(json_array(document, ("Data", "data")), 1):
            if isinstance(value, Mapping) and "paragraphs" in value:
                yield from squad_form(value, str(document), f"article {number}")
                continue
            try:
                yield from self._of_official(value, document, f"question {number}")
            except RecordError as error:
                yield error

    def encode(self, record: TriviaRecord, split: SplitName) -> Example:
        """Return the rows of a question on its evidence.

        Raises:
            RecordError: An evidence file is not UTF-8.
        """
        texts, notes = [record.text] if record.text else [], []
        for file in record.files:
            try:
                text = whole_text(Document(Path(file), Path(file).name))
            except ValueError as error:
                raise RecordError(record.source, record.id, "evidence", str(error)) from error
            if text.strip():
                texts.append(text)
            else:
                notes.append("empty evidence document")
        text = BETWEEN.join(texts)
        if not text:
            return Example(record.id, [], {}, [*notes, "left out: all its evidence is empty"])
        asked = Asked(
            record,
            record.question,
            text,
            answer_spans(text, record.spellings, self.whole_words),
            record.answers,
            True,
            record.question_id,
        )
        example = self.encode_question(asked, split)
        example.notes[:0] = notes
        return example

    def references(self, split: SplitName) -> Iterator[tuple[str, list[str]]]:
        """Yield (id in the submission, accepted answers)."""
        seen = set()
        for record in self.good_records(split):
            id = self._submitted(record.id)
            if id not in seen:
                seen.add(id)
                yield id, list(record.answers)

    def submission(self, predictions: Iterable[Mapping[str, Any]]) -> str:
        """Return the official file: {id: answer}, by question, or for the web by document too.

        Of several documents of a question, the answer with the highest score is taken.
        """
        best: dict[str, Mapping[str, Any]] = {}
        for prediction in predictions:
            id = self._submitted(prediction["id"])
            if id not in best or prediction["score"] > best[id]["score"]:
                best[id] = prediction
        return json.dumps({id: p["answer"] for id, p in best.items()}, ensure_ascii=False)

    def _submitted(self, id: str) -> str:
        return id if self.domain == "web" else question_of(id)

    def _of_official(
        self, value: Any, document: Document, place: str
    ) -> Iterator[TriviaRecord | RecordError]:
        source = str(document)
        id = field_of(value, "QuestionId", str, source, place)
        question = field_of(value, "Question", str, source, id)
        answers, spellings = official_answers(value, source, id)
        folder = self._evidence(document)
        files = {}  # a page may be in both lists
        for name, part in _LISTS.items():
            listed = field_of(value, name, list, source, id) if name in value else []
            for page in listed:
                file = field_of(page, "Filename", str, source, id)
                files[file] = folder / part / file
        missing = [file for file, path in files.items() if not path.is_file()]
        if missing:
            problem = f"there is no {files[missing[0]]}"
            raise RecordError(source, id, "Filename", problem)
        if not files:
            raise RecordError(source, id, "EntityPages", "the question has no evidence")
        if self.together:
            paths = tuple(map(str, files.values()))
            yield TriviaRecord(id, source, question, id, paths, "", answers, spellings)
            return
        for file, path in files.items():
            yield TriviaRecord(
                f"{id}--{file}", source, question, id, (str(path),), "", answers, spellings
            )

    def _evidence(self, document: Document) -> Path:
        found = self._find_evidence(document)
        if found is None:
            raise FileNotFoundError(
                f"there is no evidence folder beside {document}: looked for "
                f"{document.path.resolve().parent.parent / 'evidence'}; name it as evidence"
            )
        return found

    def _find_evidence(self, document: Document) -> Path | None:
        if self.evidence is not None:
            return open_folder(self.evidence, cache_root(self.cache_dir))
        # The files of the questions are in `qa`, or beside the evidence.
        folder = document.path.resolve().parent
        beside = (folder.parent / "evidence", folder / "evidence")
        return next((place for place in beside if place.is_dir()), None)


def _listing(folder: Path) -> str:
    """Return a hash of the names, sizes and times of the files below a folder."""
    found = []
    for root, _, names in os.walk(folder):
        for name in names:
            stat = os.stat(os.path.join(root, name))
            found.append([os.path.relpath(root, folder), name, stat.st_size, stat.st_mtime_ns])
    return digest_of(sorted(found))
