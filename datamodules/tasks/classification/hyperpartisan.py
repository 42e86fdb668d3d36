"""Hyperpartisan news: does an article argue for a side without reserve (Kiesel et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from datamodules.files.archives import Files
from datamodules.files.cache import cache_root
from datamodules.files.documents import Document
from datamodules.files.locate import find_documents
from datamodules.files.records import Record, RecordError, field_of
from datamodules.files.splitting import SplitName
from datamodules.files.tables import is_table, table_rows
from datamodules.registry import register
from datamodules.tasks.classification.base import LabelledText, LabelledTexts, label_of
from datamodules.tasks.classification.hyperpartisan_xml import articles, truths

__all__ = ["Hyperpartisan"]

_ARTICLES, _TRUTH = "articles-", "ground-truth-"
_SCRIPTS = "scripts or style sheets in the article left out"


def _names(release: str, *names: str) -> tuple[str, ...]:
    tables = tuple(f"{name}.jsonl" for name in names)
    return (*(f"{_ARTICLES}{release}-byarticle*{end}" for end in (".xml", ".zip")), *tables)


@register("hyperpartisan")
class Hyperpartisan(LabelledTexts):
    """Hyperpartisan news of SemEval 2019 task 4; class 1 is hyperpartisan.

    Official files: `articles-training-byarticle-*.xml` with `ground-truth-training-byarticle-*.xml`
    beside it, each as it is or zipped. All text of an article is kept, in order, each paragraph,
    quotation, item of a list and so on as a line; scripts are left out, and counted. Also JSON
    lines with id, text and label (true or false).
    Without files for validation and test, a tenth each is drawn from the training articles; equal
    texts are in the same split. No split may share an id or a text with another one.

    Args:
        ground_truth: The files with the classes, where they are not beside the articles under
            their official names.
        val_fraction: Share of the training articles to validate on, where there are no files.
        test_fraction: The same for the test split.
        **kwargs: As in `LabelledTexts`: path, train, val, test, tokenizer, max_length, long,
            split_seed, keep_shared, skip_bad_records, batch_size, and more.
    """

    unique_ids = True
    official = MappingProxyType(
        {
            "train": _names("training", "train", "training"),
            "val": _names("validation", "val", "dev", "validation"),
            "test": _names("test", "test"),
        }
    )

    def __init__(
        self,
        *,
        ground_truth: Files = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(val_fraction=val_fraction, test_fraction=test_fraction, **kwargs)
        self.ground_truth = ground_truth

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, by number."""
        return ("false", "true")

    def documents(self) -> dict[SplitName, list[Document]]:
        """Return the files of each split, zipped ones as what is in them."""
        if self._documents is None:
            found = super().documents()
            self._documents = {s: [*_unzipped(documents)] for s, documents in found.items()}
        return self._documents

    def settings(self) -> dict[str, Any]:
        """Return what the examples depend on besides the base's fields."""
        root = cache_root(self.cache_dir)
        xml = [d for documents in self.documents().values() for d in documents if not is_table(d)]
        truth = [t.digest(root) for document in xml for t in self._truth_files(document)]
        return {**super().settings(), "truth": truth}

    def split_key(self, record: LabelledText) -> str:
        """Return the text: copies of it must not be in two splits."""
        return f"{self.split_seed}:{' '.join(record.text.split())}"

    def read(self, document: Document, split: SplitName) -> Iterator[Record | RecordError]:
        """Yield the articles of a file."""
        if is_table(document):
            yield from _rows(document, split)
            return
        truth: dict[str, str] = {}
        files = self._truth_files(document)
        for file in files:
            truth |= truths(file)
        if not files and split == "train":
            raise ValueError(
                f"{document}: there is no {_TRUTH}... file beside it; name it by ground_truth"
            )
        missing = set(truth)
        for id, text, left_out in articles(document):
            missing.discard(id)
            if files and id not in truth:
                problem = f"is not in {', '.join(map(str, files))}"
                yield RecordError(document, id, "hyperpartisan", problem)
                continue
            notes = (_SCRIPTS,) if left_out else ()
            yield LabelledText(id, str(document), text, truth.get(id), notes=notes)
        if self.ground_truth is None:
            for id in sorted(missing):
                yield RecordError(files[0], id, "id", f"has no article in {document}")

    def submission(self, predictions: Iterable[Mapping[str, Any]]) -> str:
        """Return the official file: a line `id true|false confidence` for each article."""
        lines = []
        for p in predictions:
            scores = p.get("scores")
            confidence = f" {scores[p['label']]:.6g}" if scores is not None else ""
            lines.append(f"{p['id']} {self.class_names[p['label']]}{confidence}\n")
        return "".join(lines)

    def _truth_files(self, document: Document) -> list[Document]:
        """Return the files with the classes of a file of articles; [] where there is none."""
        if self.ground_truth is not None:
            return [*_unzipped(find_documents(self.ground_truth))]
        if not document.path.name.startswith(_ARTICLES):
            return []
        stem = document.path.name.removeprefix(_ARTICLES).split(".")[0]
        beside = sorted(document.path.parent.glob(f"{_TRUTH}{stem}.*"))
        return [*_unzipped([Document(path, path.name) for path in beside[:1]])]


def _unzipped(documents: Iterable[Document]) -> Iterator[Document]:
    for document in documents:
        if document.path.suffix == ".zip" and document.member is None:
            yield from find_documents(str(document.path))
        else:
            yield document


def _rows(document: Document, split: SplitName) -> Iterator[Record | RecordError]:
    source = str(document)
    for place, row in table_rows(document):
        try:
            id = label_of(row.get("id"), source, place, "id")
            if id is None:
                raise RecordError(source, place, "id", "is missing")
            said = label_of(row.get("label"), source, id, "label")
            if said is None and split == "train":
                raise RecordError(source, id, "label", "is missing")
            said = {"0": "false", "1": "true"}.get(said or "", said and said.lower())
            yield LabelledText(id, source, field_of(row, "text", str, source, id), said)
        except RecordError as error:
            yield error
