"""Made-up batches of every task, models to go with them, and heads that know the answer."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lit_modules.candidate_choice import CandidateChoice
from lit_modules.classification import Classification
from lit_modules.coreference import Coreference
from lit_modules.extractive_qa import ExtractiveQA, SpanScores
from lit_modules.multihop_qa import MultihopQA, MultihopScores
from lit_modules.nn.answer_spans import gold_mask
from lit_modules.nn.coref.ranking import Ranking, RankingSettings
from lit_modules.pretrained.backbone import EncoderSettings
from lit_modules.task import TaskModule

VOCABULARY, PAD, START = 60, 1, 0
LENGTH = 24
ENCODER = EncoderSettings(
    layers=1, heads=2, width=32, window=8, max_length=LENGTH, dropout=0.0, attention_dropout=0.0
)
COMMON: dict[str, Any] = dict(
    vocabulary_size=VOCABULARY, pad_id=PAD, encoder=ENCODER, learning_rate=3e-3, warmup=0.0
)
SMALL = RankingSettings(
    longest_span=3, spans_per_word=1.0, antecedents=8, inner=32, features=8, dropout=0.0
)

Made = dict[str, Any]


def rows(owners: list[int], lengths: list[int], seed: int) -> Made:
    """Rows of random tokens; the first is global, the rest after `lengths` is padding."""
    generator = torch.Generator().manual_seed(seed)
    count = len(owners)
    ids = torch.randint(5, VOCABULARY, (count, LENGTH), generator=generator)
    ids[:, 0] = START
    real = torch.arange(LENGTH) < torch.tensor(lengths)[:, None]
    marks = torch.zeros_like(real)
    marks[:, 0] = True
    return {
        "input_ids": ids.masked_fill(~real, PAD),
        "key_mask": real,
        "global_mask": marks,
        "example": torch.tensor(owners),
        "ids": [f"{seed}-{n}" for n in range(max(owners) + 1)],
    }


def two_rows_each(seed: int) -> Made:
    return rows([0, 0, 1, 2, 2, 3], [24, 20, 24, 24, 13, 17], seed)


def classification(seed: int) -> Made:
    labels = torch.tensor([0, 1, 1, 2] if seed % 2 else [2, 0, 1, 0])
    return {**two_rows_each(seed), "labels": labels}


def candidate_choice(seed: int) -> Made:
    batch = two_rows_each(seed)
    positions = torch.tensor([[3, 5, 7], [3, 5, 7], [2, 9, -1], [4, 6, 8], [4, 6, 8], [5, 6, 7]])
    names = [["red", "green", "blue"], ["one", "two"], ["a", "b", "c"], ["x", "y", "z"]]
    labels = torch.tensor([2, 1, 0, 1] if seed % 2 else [1, 0, 2, 2])
    return {**batch, "candidate_positions": positions, "candidates": names, "labels": labels}


def context(batch: Made) -> Made:
    """The text of each example: a word a token, the first four of a row being the question."""
    count, examples = len(batch["example"]), len(batch["ids"])
    mask = batch["key_mask"].clone()
    mask[:, :4] = False
    offsets = torch.zeros(count, LENGTH, 2, dtype=torch.int64)
    texts = [""] * examples
    for row, owner in enumerate(batch["example"].tolist()):
        for token in mask[row].nonzero()[:, 0].tolist():
            word = f"w{batch['input_ids'][row, token]}n{row}t{token}"
            offsets[row, token] = torch.tensor([len(texts[owner]), len(texts[owner]) + len(word)])
            texts[owner] += word + " "
    return {**batch, "context_mask": mask, "offsets": offsets, "texts": texts}


def answered(batch: Made, spans: dict[int, tuple[int, int]]) -> Made:
    """Answers at `spans`: row to first and last token; the rows that are not named have none."""
    count, examples = len(batch["example"]), len(batch["ids"])
    starts = torch.full((count, 2), -1)
    ends = torch.full((count, 2), -1)
    answers: list[list[str]] = [[] for _ in range(examples)]
    for row, (first, last) in spans.items():
        starts[row, 0], ends[row, 0] = first, last
        owner = int(batch["example"][row])
        a, b = int(batch["offsets"][row, first, 0]), int(batch["offsets"][row, last, 1])
        answers[owner].append(batch["texts"][owner][a:b])
    return {
        **batch,
        "answer_starts": starts,
        "answer_ends": ends,
        "answers": answers,
        "answerable": torch.tensor([bool(some) for some in answers]),
    }


def extractive_qa(seed: int) -> Made:
    spans = {1: (5, 6), 2: (9, 9), 3: (8, 10), 5: (11, 11)}
    other = {0: (7, 7), 2: (4, 6), 4: (6, 6), 5: (12, 14)}
    return answered(context(two_rows_each(seed)), spans if seed % 2 else other)


def multihop_qa(seed: int) -> Made:
    batch = context(rows([0, 1, 2, 3], [24, 24, 20, 22], seed))
    batch = answered(batch, {0: (6, 7), 3: (9, 9)} if seed % 2 else {1: (8, 8), 2: (5, 6)})
    yes_no = [(2, "yes"), (1, "no")] if seed % 2 else [(0, "no"), (3, "yes")]
    types = torch.zeros(4, dtype=torch.int64)
    for at, answer in yes_no:
        types[at] = ("span", "yes", "no").index(answer)
        batch["answers"][at] = [answer]
    batch["answerable"] = torch.ones(4, dtype=torch.bool)
    facts = [[(f"title {n}.{s // 2}", s % 2) for s in range(6)] for n in range(4)]
    gold = torch.tensor(
        [[1, 0, 0, 0, 1, 1], [0, 0, 1, 0, 0, 1], [1, 1, 0, 1, 0, 0], [0, 1, 0, 0, 1, 0]]
    ).roll(seed % 2, 0)
    return {
        **batch,
        "answer_type": types,
        "sentence_positions": torch.arange(5, 17, 2).expand(4, -1),
        "paragraph_positions": torch.arange(4, 16, 4).expand(4, -1),
        "sentence_labels": gold,
        "paragraph_labels": gold.view(4, 3, 2).amax(2),
        "sentence_paragraph": torch.arange(3).repeat_interleave(2).expand(4, -1),
        "facts": facts,
        "gold_facts": [
            [fact for fact, yes in zip(facts[n], gold[n].tolist(), strict=True) if yes]
            for n in range(4)
        ],
    }


def coreference(seed: int) -> Made:
    """A document of two segments: 20 words in four sentences, some of them two pieces long."""
    batch = rows([0, 0], [16, 14], seed)
    words = torch.full((2, LENGTH), -1)
    words[0, 1:15] = torch.tensor([0, 1, 1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11])
    words[1, 1:13] = torch.tensor([12, 12, 13, 14, 15, 16, 16, 16, 17, 18, 19, 19])
    clusters = [[(0, 1), (6, 6), (13, 14)], [(3, 4), (16, 16)]]
    if seed % 2:
        clusters = [[(2, 2), (5, 6)], [(8, 9), (12, 12), (17, 19)]]
    gold = sorted((span, number) for number, spans in enumerate(clusters) for span in spans)
    return {
        **batch,
        "words": words,
        "sentences": torch.tensor([0] * 5 + [1] * 5 + [2] * 5 + [3] * 5),
        "speakers": torch.tensor([0] * 4 + [1] * 8 + [2] * 8),
        "genre": torch.tensor(seed % 3),
        "mentions": torch.tensor([span for span, _ in gold]),
        "clusters": torch.tensor([number for _, number in gold]),
        "tokens": [[f"word{n}" for n in range(20)]],
    }


BATCHES: dict[str, Callable[[int], Made]] = {
    "classification": classification,
    "candidate-choice": candidate_choice,
    "extractive-qa": extractive_qa,
    "multihop-qa": multihop_qa,
    "coreference": coreference,
}


def model_of(task: str, **changes: Any) -> TaskModule:
    common = {**COMMON, **changes}
    if task == "classification":
        return Classification(classes=3, **common)
    if task == "candidate-choice":
        return CandidateChoice(**common)
    if task == "extractive-qa":
        return ExtractiveQA(**common)
    if task == "multihop-qa":
        return MultihopQA(**common)
    common["learning_rate"] = changes.get("learning_rate", 1e-3)
    return Coreference(genres=3, ranking=SMALL, mention_weight=1.0, **common)


def sure(gold: Tensor) -> Tensor:
    """Logits that say what is right."""
    return torch.where(gold, 50.0, -50.0)


def knows(task: str, batch: Made) -> Any:
    """The scores of a head that was told the answer."""
    if task == "classification":
        return sure(torch.nn.functional.one_hot(batch["labels"], 3).bool())
    if task == "candidate-choice":
        real = torch.zeros(len(batch["ids"]), batch["candidate_positions"].shape[1])
        real.index_add_(0, batch["example"], (batch["candidate_positions"] >= 0).float())
        right = torch.nn.functional.one_hot(batch["labels"], real.shape[1]).bool()
        return sure(right).masked_fill(real == 0, -torch.inf)
    if task == "coreference":
        return ranking_of(batch)
    spans = SpanScores(
        *(sure(gold_mask(batch[name], LENGTH)) for name in ("answer_starts", "answer_ends"))
    )
    if task == "extractive-qa":
        return spans
    return MultihopScores(
        spans,
        sure(torch.nn.functional.one_hot(batch["answer_type"].clamp(min=0), 3).bool()),
        sure(batch["sentence_labels"] == 1),
        sure(batch["paragraph_labels"] == 1),
    )


def ranking_of(batch: Made) -> Ranking:
    """Links of each gold mention to all earlier ones of its cluster."""
    mentions, clusters = batch["mentions"], batch["clusters"]
    order = torch.arange(len(mentions))
    earlier = order[:, None] > order
    right = (clusters[:, None] == clusters) & earlier
    scores = sure(right).masked_fill(~earlier, -torch.inf)
    certain = torch.full((len(mentions),), 50.0)
    return Ranking(mentions, certain, order.expand_as(earlier), earlier, scores, certain)


class TaskData(LightningDataModule):
    """Batches as they are, the same in each part."""

    def __init__(self, batches: list[Made]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


def eight(task: str) -> list[Made]:
    """Batches with eight examples in all."""
    seeds = range(8) if task == "coreference" else range(2)
    return [BATCHES[task](seed) for seed in seeds]
