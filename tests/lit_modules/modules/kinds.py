"""Every module that ships, and a head as a user writes one: small ones, with batches to go with."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

import sparse_patterns as sp
from lit_modules.language_model import LanguageModel
from lit_modules.masked_language_model import MaskedLanguageModel
from lit_modules.task import TaskModule
from tests.lit_modules.task_batches import (
    BATCHES,
    COMMON,
    ENCODER,
    TaskData,
    model_of,
    two_rows_each,
)

TASKS = sorted(BATCHES)
KINDS = ["language", "masked", *TASKS, "user"]
ENCODERS = KINDS[1:]
SOME = ["language", "masked", "classification", "user"]
"""One of each base class, and the head of a user, for what depends on no more than these."""
VOCABULARY = 32

Made = dict[str, Any]


class ErrorHead(TaskModule):
    """A head of a user: its argument is an attribute, which `build_head` reads."""

    def __init__(self, vocabulary_size: int, inner: int = 4, **common: Any) -> None:
        super().__init__(vocabulary_size, **common)
        self.inner = inner

    def build_head(self, width: int, dropout: float) -> None:
        self.inside = nn.Linear(width, self.inner)
        self.number = nn.Linear(self.inner, 1)

    def head(self, hidden: Tensor, batch: Any) -> Tensor:
        found: Tensor = self.number(self.inside(hidden[:, 0]))[:, 0]
        return found

    def losses(self, scores: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        return (scores - batch["values"]) ** 2, torch.ones_like(scores, dtype=torch.bool)

    def decode(self, scores: Tensor, batch: Any) -> list[Made]:
        return [{"id": id_, "number": s} for id_, s in zip(batch["ids"], scores.tolist())]  # noqa: B905

    def build_metrics(self) -> dict[str, Metric]:
        return {"error": MeanMetric()}

    def update_metrics(self, metrics: Any, scores: Tensor, predictions: Any, batch: Any) -> None:
        metrics["error"].update((scores - batch["values"]).abs())


def make(kind: str, **fields: Any) -> Any:
    """A small module; the same weights each time."""
    torch.manual_seed(1)
    if kind == "language":
        sizes = dict(layers=2, heads=2, width=32, pattern=sp.Causal(), max_new=2, dropout=0.0)
        return LanguageModel(VOCABULARY, **{**sizes, **fields})  # type: ignore[arg-type]
    if kind == "masked":
        encoder = replace(ENCODER, max_length=16)
        return MaskedLanguageModel(VOCABULARY, **{"pad_id": 0, "encoder": encoder, **fields})
    return ErrorHead(**{**COMMON, **fields}) if kind == "user" else model_of(kind, **fields)


def batches(kind: str) -> list[Made]:
    """Two batches."""
    if kind in ("language", "masked"):
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1, VOCABULARY, (2, 2, 17), generator=generator)
        labels = ids[:, :, 1:].clone()
        labels[:, 0, :3] = -100
        return [
            {"input_ids": one[:, :-1], "labels": own} for one, own in zip(ids, labels, strict=True)
        ]
    if kind == "user":
        made = [two_rows_each(seed) for seed in range(2)]
        return [{**b, "values": torch.arange(len(b["input_ids"])) + 0.5} for b in made]
    return [BATCHES[kind](seed) for seed in range(2)]


def data(kind: str, times: int = 1) -> TaskData:
    """The batches, in every part."""
    return TaskData(batches(kind) * times)


def inputs(kind: str) -> Any:
    """What `module(...)` takes."""
    first = batches(kind)[0]
    return first["input_ids"] if kind in ("language", "masked") else first


def flat(scores: Any) -> Tensor:
    """The numbers of any scores, as one vector."""
    if isinstance(scores, Tensor):
        return scores.detach().double().flatten()
    if isinstance(scores, Sequence):
        return torch.cat([flat(one) for one in scores if one is not None])
    raise TypeError(type(scores))


def trainer(*callbacks: Callback, **given: Any) -> Trainer:
    quiet: dict[str, Any] = dict(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    return Trainer(**{**quiet, **given}, callbacks=list(callbacks))
