"""What the batches of the tasks hold.

A *row* is one sequence given to the encoder; an *example* is one record of the data set (a
question, a document). A long example may be several rows ("chunks"); all rows of an example are in
the same batch. Every batch is a plain dict; lengths are in tokens, places are token positions in a
row unless said otherwise, -1 is padding.
"""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor

__all__ = [
    "CandidateBatch",
    "ClassificationBatch",
    "CoreferenceBatch",
    "MultihopBatch",
    "QuestionBatch",
    "TaskBatch",
]

PADDING = -1
"""Fills places and labels that are not there."""


class _Always(TypedDict):
    input_ids: Tensor
    key_mask: Tensor
    global_mask: Tensor
    example: Tensor
    ids: list[str]


class TaskBatch(_Always, total=False):
    """What the batches of all tasks have in common.

    Attributes:
        input_ids: int64 (rows, length), padded with the tokenizer's pad id.
        key_mask: bool (rows, length), True for a token, False for padding.
        global_mask: bool (rows, length), True for a global token; False on padding.
        example: int64 (rows,), which example of the batch a row belongs to: 0 to examples - 1, in
            order.
        ids: One for each example: the id of its record, for predictions.
        filler: True where the batch repeats an example only so that all processes have equally many
            batches in evaluation: it goes through the model, but is neither scored nor predicted.
            Absent otherwise.
    """

    filler: bool


class ClassificationBatch(TaskBatch):
    """Texts and their classes.

    Attributes:
        labels: int64 (examples,), the class, -1 where it is unknown.
    """

    labels: Tensor


class QuestionBatch(TaskBatch):
    """Questions whose answers are spans of a text.

    Attributes:
        context_mask: bool (rows, length), tokens an answer may begin or end in.
        answer_starts: int64 (rows, answers), first token of every occurrence of an answer in the
            row; the (start, end) pairs of a row differ.
        answer_ends: int64 (rows, answers), the last token, inclusive.
        offsets: int64 (rows, length, 2), characters [start, stop) of each context token in the text
            of its example; (0, 0) elsewhere.
        texts: One for each example: the text that offsets point into.
        answers: One for each example: all accepted answers; [] where there is none or none is
            known.
        answerable: bool (examples,), False where the data set marks that there is no answer.
        questions: One for each example: the id of the question it belongs to. Several examples may
            be the same question on different documents: its prediction is the one of them with the
            highest score.
    """

    context_mask: Tensor
    answer_starts: Tensor
    answer_ends: Tensor
    offsets: Tensor
    texts: list[str]
    answers: list[list[str]]
    answerable: Tensor
    questions: list[str]


class CandidateBatch(TaskBatch):
    """Questions whose answer is one of several candidates.

    Attributes:
        candidate_positions: int64 (rows, candidates), the mark `[ent]` of each candidate.
        labels: int64 (examples,), the index of the right candidate, -1 where it is unknown.
        candidates: One for each example: the candidates' texts.
    """

    candidate_positions: Tensor
    labels: Tensor
    candidates: list[list[str]]


class MultihopBatch(QuestionBatch):
    """Questions over paragraphs, with the sentences that prove the answer; one row an example.

    Attributes:
        answer_type: int64 (examples,), 0 span, 1 yes, 2 no, -1 unknown.
        sentence_positions: int64 (rows, sentences), the mark `[sent]` that ends each sentence.
        paragraph_positions: int64 (rows, paragraphs), the mark `<t>` that begins each paragraph.
        sentence_labels: int64 (rows, sentences), 1 evidence, 0 not, -1 padding or unknown.
        paragraph_labels: int64 (rows, paragraphs), the same of paragraphs.
        sentence_paragraph: int64 (rows, sentences), the column of `paragraph_positions` that each
            sentence is in.
        facts: One for each example: (title, sentence index) of each column of `sentence_positions`.
        gold_facts: One for each example: the supporting facts; [] where they are unknown.
    """

    answer_type: Tensor
    sentence_positions: Tensor
    paragraph_positions: Tensor
    sentence_labels: Tensor
    paragraph_labels: Tensor
    sentence_paragraph: Tensor
    facts: list[list[tuple[str, int]]]
    gold_facts: list[list[tuple[str, int]]]


class CoreferenceBatch(TaskBatch):
    """One document, and who is meant by what in it; rows are its segments, without overlap.

    Attributes:
        words: int64 (rows, length), number of the word in the document that each token is a piece
            of; -1 on special tokens and padding. Each word is in one row.
        sentences: int64 (words,), number of the sentence of each word.
        speakers: int64 (words,), number of the speaker of each word, 0 unknown.
        genre: int64 (), number of the genre in the data set's list, 0 unknown.
        mentions: int64 (mentions, 2), gold mentions as word numbers, inclusive, sorted.
        clusters: int64 (mentions,), gold cluster of each mention; both are empty in prediction.
        tokens: One for each example (there is one): the words.
    """

    words: Tensor
    sentences: Tensor
    speakers: Tensor
    genre: Tensor
    mentions: Tensor
    clusters: Tensor
    tokens: list[list[str]]
