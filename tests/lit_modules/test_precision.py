"""Figures of every module in every precision: as exact as the forward pass, however many batches.

Each forward pass is real, in its precision, for a few batches; the data repeats them, and the
scores of a batch that comes again are taken from its first time. What is expected is computed here
in float64 from those scores.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, Metric

import sparse_patterns as sp
from lit_modules.language_model import LanguageModel
from lit_modules.masked_language_model import MaskedLanguageModel
from lit_modules.pretrained.backbone import EncoderSettings
from lit_modules.task import TaskModule
from tests.lit_modules.task_batches import BATCHES, COMMON, model_of, two_rows_each

PRECISIONS = ("32-true", "64-true", "bf16-true", "16-true", "bf16-mixed", "16-mixed")
pytestmark = pytest.mark.filterwarnings("ignore:.*precision=.16-mixed.*CPU.*")

TASKS = sorted(BATCHES)
# How often each of four batches comes: 100 in all where Lightning casts the metrics.
TIMES = {"bf16-true": 25, "16-true": 25}
VOCABULARY = 32

Made = dict[str, Any]


class Repeated(LightningDataModule):
    """A few batches, over and over; each says which it is."""

    def __init__(self, batches: list[Made], times: int) -> None:
        super().__init__()
        self.batches = [{**batch, "which": at} for at, batch in enumerate(batches)] * times

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


class ErrorHead(TaskModule):
    """A head of a user, who thinks of no precision, with a metric that adds in place."""

    def build_head(self, width: int, dropout: float) -> None:
        self.number = nn.Linear(width, 1)

    def head(self, hidden: Tensor, batch: Any) -> Tensor:
        found: Tensor = self.number(hidden[:, 0])[:, 0]
        return found

    def losses(self, scores: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        return (scores - batch["values"]) ** 2, torch.ones_like(scores, dtype=torch.bool)

    def decode(self, scores: Tensor, batch: Any) -> list[Made]:
        return [{"id": id_, "number": s} for id_, s in zip(batch["ids"], scores.tolist())]  # noqa: B905

    def build_metrics(self) -> dict[str, Metric]:
        return {"error": MeanMetric()}

    def update_metrics(self, metrics: Any, scores: Tensor, predictions: Any, batch: Any) -> None:
        metrics["error"].update((scores - batch["values"]).abs())


def trainer(precision: str = "32-true", **given: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        precision=precision,  # type: ignore[arg-type]
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **given,
    )


def task_batches(task: str) -> list[Made]:
    if task != "user":
        return [BATCHES[task](seed) for seed in range(4)]
    batches = [two_rows_each(seed) for seed in range(4)]
    # Integers, which Lightning does not cast to the type of the model.
    return [{**b, "values": torch.arange(len(b["input_ids"])) + n} for n, b in enumerate(batches)]


def lm_batches() -> list[Made]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(4):
        ids = torch.randint(VOCABULARY, (2, 17), generator=generator)
        batch = {"input_ids": ids[:, :-1], "labels": ids[:, 1:].clone()}
        batch["labels"][0, :3] = -100
        made.append({**batch, "units_scored": torch.tensor([26, 33])})
    return made


def language_model() -> LanguageModel:
    return LanguageModel(VOCABULARY, layers=1, heads=2, width=32, pattern=sp.Causal(), unit="byte")


def masked_language_model() -> MaskedLanguageModel:
    encoder = EncoderSettings(layers=1, heads=2, width=32, window=8, max_length=16)
    return MaskedLanguageModel(VOCABULARY, pad_id=0, encoder=encoder)


def once_each(model: Any, name: str, seen: dict[int, Any], current: list[int]) -> None:
    """Let `model.NAME` answer from `seen` for a batch that comes again."""
    run = getattr(model, name)

    def repeated(*args: Any, **given: Any) -> Any:
        if current[0] not in seen:
            seen[current[0]] = run(*args, **given)
        return seen[current[0]]

    setattr(model, name, repeated)


def note_batch(model: Any, current: list[int]) -> None:
    def before(batch: Made, batch_idx: int, dataloader_idx: int = 0) -> None:
        current[0] = batch["which"]

    model.on_test_batch_start = before


def figures_of(model: Any, batches: list[Made], precision: str, times: int) -> dict[str, float]:
    runner = trainer(precision)
    runner.test(model, Repeated(batches, times), verbose=False)
    figures = runner.callback_metrics
    assert all(value.dtype in (torch.float32, torch.float64) for value in figures.values())
    return {name: float(value) for name, value in figures.items()}


def exact(scores: Any) -> Any:
    return tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, scores)


ALL = [
    pytest.param(task, precision, marks=[] if daily else pytest.mark.long)
    for task in [*TASKS, "user"]
    for precision in PRECISIONS
    # Every task in one precision that rounds, and one task in all of them.
    for daily in [precision == "bf16-true" or task == "classification"]
]


@pytest.mark.parametrize(("task", "precision"), ALL)
def test_figures_of_tasks(task: str, precision: str) -> None:
    torch.manual_seed(1)
    model: TaskModule = ErrorHead(**COMMON) if task == "user" else model_of(task)
    batches = task_batches(task)
    seen: dict[int, Any] = {}
    current = [0]
    once_each(model, "forward", seen, current)
    note_batch(model, current)
    found = figures_of(model, batches, precision, TIMES.get(precision, 5))
    half = {"bf16-true": torch.bfloat16, "16-true": torch.float16}
    if precision in half:
        assert {weight.dtype for weight in model.parameters()} == {half[precision]}
    fresh = {name: metric.double() for name, metric in model.build_metrics().items()}
    total = count = 0.0
    for at, batch in enumerate(batches):
        scores = exact(seen[at])
        losses, counts = model.losses(scores, batch)
        assert losses.dtype == torch.float64
        total, count = total + float(losses[counts].sum()), count + float(counts.sum())
        model.update_metrics(fresh, scores, model.decode(scores, batch), batch)
    assert found["test/loss"] == pytest.approx(total / count, rel=1e-6)
    for name, metric in fresh.items():
        right = metric.compute()
        for figure, value in (right if isinstance(right, dict) else {name: right}).items():
            assert found[f"test/{figure}"] == pytest.approx(float(value), rel=1e-6), figure


@pytest.mark.parametrize(
    "precision",
    [
        x if x in ("32-true", "bf16-true", "16-mixed") else pytest.param(x, marks=pytest.mark.long)
        for x in PRECISIONS
    ],
)
@pytest.mark.parametrize("make", [language_model, masked_language_model])
def test_figures_of_language_models(make: Callable[[], Any], precision: str) -> None:
    hold_language_model(make, precision, TIMES.get(precision, 5))


@pytest.mark.long
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("make", [language_model, masked_language_model])
def test_figures_of_two_thousand_batches(make: Callable[[], Any], precision: str) -> None:
    hold_language_model(make, precision, 500)


def hold_language_model(make: Callable[[], Any], precision: str, times: int) -> None:
    """Hold the figures of `4 * times` batches to those worked out in float64."""
    torch.manual_seed(1)
    model = make()
    batches = lm_batches()
    seen: dict[int, Any] = {}
    current = [0]
    once_each(model.net, "forward", seen, current)
    note_batch(model, current)
    found = figures_of(model, batches, precision, times)
    nats = tokens = 0.0
    for at, batch in enumerate(batches):
        logits = getattr(seen[at], "logits", seen[at]).double()
        labels = batch["labels"].flatten()
        if make is masked_language_model:
            labels = labels[labels != -100]
        nats += float(F.cross_entropy(logits.flatten(0, -2), labels, reduction="sum"))
        tokens += float((labels != -100).sum())
    assert nats / tokens > 1
    bits = nats / math.log(2)
    assert found["test/loss"] == pytest.approx(nats / tokens, rel=1e-6)
    if make is language_model:
        assert found["test/bpb"] == pytest.approx(bits / (59 * len(batches)), rel=1e-6)
    else:
        assert found["test/bpt"] == pytest.approx(bits / tokens, rel=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", [*TASKS, "user", "language", "masked"])
def test_the_loss_of_training_is_not_rounded(kind: str, precision: str) -> None:
    torch.manual_seed(1)
    plain: dict[str, Callable[[], Any]] = {
        "language": language_model,
        "masked": masked_language_model,
        "user": lambda: ErrorHead(**COMMON),
    }
    model = plain[kind]() if kind in plain else model_of(kind)
    batches = lm_batches() if kind in ("language", "masked") else task_batches(kind)
    logged: list[dict[str, Tensor]] = []
    returned: list[Tensor] = []

    def after(outputs: Any, batch: Made, batch_idx: int) -> None:
        logged.append(dict(model.trainer.callback_metrics))
        returned.append(outputs["loss"])

    model.on_train_batch_end = after
    runner = trainer(precision, max_steps=1)
    runner.fit(model, Repeated(batches, 1))
    wide = (torch.float32, torch.float64)
    assert returned[0].dtype == (torch.float64 if precision == "64-true" else torch.float32)
    assert {value.dtype for value in logged[0].values()} <= set(wide)
    assert float(logged[0]["train/loss"]) == pytest.approx(float(returned[0]), rel=1e-6)
