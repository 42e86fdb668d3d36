"""TriviaQA: questions on long documents that are known to contain the answer, but not where."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from datamodules.files.archives import open_folder
from datamodules.files.cache import cache_root, digest_of
from datamodules.files.documents import Document
from datamodules.files.records import Record, RecordError
from datamodules.files.splitting import SplitName
from datamodules.files.text_records import json_array, whole_text
from datamodules.registry import register
from datamodules.tasks.qa.base import Asked, ExtractiveData
from datamodules.tasks.qa.spans import answer_spans
from datamodules.tasks.qa.trivia_records import TriviaRecord, question_of, squad_form
from datamodules.tasks.qa.trivia_release import (
    Release,
    has_verified_marks,
    is_verified,
    is_verified_file,
)
from datamodules.tasks.rows import Example

__all__ = ["TriviaQA"]

BETWEEN = "\n\n"
"""What stands between documents that are read together."""


@register("triviaqa")
class TriviaQA(ExtractiveData):
    """TriviaQA reading comprehension: long evidence, aliases, every occurrence of an answer.

    Reads the official release (a folder or archive with `qa/` and `evidence/`) and files in SQuAD's
    form with aliases. An occurrence of the answer or an alias is found by its words, without regard
    to case.

    Evaluation has figures of the verified questions besides: those that the split's file marks
    (`QuestionPartOfVerifiedEval`, and `DocPartOfVerifiedEval` for the web), or that are in
    `verified-wikipedia-dev.json` beside `wikipedia-dev.json`. Of a file that is itself the verified
    one (`VerifiedEval`), only what is verified is read.

    Args:
        domain: Which part of the official release: "wikipedia" is evaluated by question, "web" by
            question and document.
        documents: "each" makes an example of each document of a question, with the id
            `question--document` as in the official scripts; the question's answer is that of the
            example with the highest score. "together" reads all documents of a question as one
            text.
        evidence: Folder with the folders `wikipedia` and `web`; None takes `evidence` beside the
            folder of the questions. A question of which some documents are not there keeps the
            others. One of which none is there is an error; with `skip_bad_records` it is left out
            of training, and counts as wrong in evaluation, as in the official scripts.
        whole_words: Whether an answer must begin and end where words do: "York" is then not found
            in "Yorkshire".
        **kwargs: As in `ExtractiveData`: path, train, val, test, tokenizer, max_length, long,
            max_question, batch_size, and more.
    """

    version = 2

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
        release = Release(
            str(document),
            partial(self._evidence, document),
            self.domain,
            together=self.together,
            scored=split != "train",
            skip_bad=self.skip_bad_records,
        )
        verified_only: bool | None = None
        for number, value in enumerate(json_array(document, ("Data", "data")), 1):
            if verified_only is None and has_verified_marks(value):
                verified_only = is_verified_file(document)
            if verified_only and not is_verified(value, "Question"):
                continue
            if isinstance(value, Mapping) and "paragraphs" in value:
                yield from squad_form(value, str(document), f"article {number}")
                continue
            try:
                yield from release.records(value, f"question {number}", bool(verified_only))
            except RecordError as error:
                yield error

    def encode(self, record: TriviaRecord, split: SplitName) -> Example:
        """Return the rows of a question on its evidence.

        Raises:
            RecordError: An evidence file is not UTF-8.
        """
        texts, notes = [record.text] if record.text else [], list(record.notes)
        for file in record.files:
            try:
                text = whole_text(Document(Path(file), Path(file).name))
            except ValueError as error:
                raise RecordError(record.source, record.id, "evidence", str(error)) from error
            if text.strip():
                texts.append(text)
            else:
                notes.append("empty evidence document")
        if not texts and split == "train":
            return Example(record.id, [], {}, [*notes, "left out: it has no evidence"])
        if not texts:
            notes.append("has no evidence, so it counts as wrong")
        asked = Asked(
            record,
            record.question,
            BETWEEN.join(texts),
            self._spans(texts, record.spellings) if texts else (),
            record.answers,
            True,
            record.question_id,
        )
        example = self.encode_question(asked, split)
        example.notes[:0] = notes
        return example

    def references(self, split: SplitName) -> Iterator[tuple[str, list[str]]]:
        """Yield (id in the submission, accepted answers)."""
        yield from self._answers(self.good_records(split))

    def verified_references(self, split: SplitName) -> Iterator[tuple[str, list[str]]]:
        """Yield what `references` yields, of the verified questions alone; nothing without any."""
        found = dict(self._answers(r for r in self.good_records(split) if r.verified))
        for document in self.documents().get(split, ()) if not found else ():
            path = document.path.parent / f"verified-{document.path.name}"
            if document.member is None and path.is_file():
                records = self.read(Document(path, path.name), split)
                found |= dict(self._answers(r for r in records if isinstance(r, TriviaRecord)))
        whole = dict(self.references(split)) if self.limit is not None else found
        yield from ((id, answers) for id, answers in found.items() if id in whole)

    def _answers(self, records: Iterable[TriviaRecord]) -> Iterator[tuple[str, list[str]]]:
        seen = set()
        for record in records:
            id = self._submitted(record.id)
            if id not in seen:
                seen.add(id)
                yield id, list(record.answers)

    def _spans(self, texts: Sequence[str], spellings: Sequence[str]) -> list[tuple[int, int]]:
        """Return where an answer stands in texts that are joined; never across two of them."""
        found, begin = [], 0
        for text in texts:
            spans = answer_spans(text, spellings, self.whole_words)
            found += [(begin + start, begin + stop) for start, stop in spans]
            begin += len(text) + len(BETWEEN)
        return found

    def submission(self, predictions: Iterable[Mapping[str, Any]]) -> str:
        """Return the official file: {id: answer}, by question, or for the web by document too.

        Of several documents of a question, the answer with the highest score is taken.
        """
        best: dict[str, Mapping[str, Any]] = {}
        for prediction in predictions:
            id = self._submitted(prediction["id"])
            if id not in best or _rank(prediction) > _rank(best[id]):
                best[id] = prediction
        return json.dumps(
            {id: p["answer"] for id, p in best.items()}, ensure_ascii=False, allow_nan=False
        )

    def _submitted(self, id: str) -> str:
        return id if self.domain == "web" else question_of(id)

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


def _rank(prediction: Mapping[str, Any]) -> float:
    """Return the score; that of an answer from no text is null in a file, and below all others."""
    score = prediction["score"]
    return -math.inf if score is None else float(score)


def _listing(folder: Path) -> str:
    """Return a hash of the names, sizes and times of the files below a folder."""
    found = []
    for root, _, names in os.walk(folder):
        for name in names:
            stat = os.stat(os.path.join(root, name))
            found.append([os.path.relpath(root, folder), name, stat.st_size, stat.st_mtime_ns])
    return digest_of(sorted(found))
