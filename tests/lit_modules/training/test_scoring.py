"""Loss, bits and checks that language models share."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lit_modules.training.scoring import (
    NOT_SCORED,
    Batch,
    ScoredModule,
    total_nats,
    units_scored,
)


class Table(ScoredModule):
    """Scores each token by a table of logits, whatever came before."""

    def __init__(self) -> None:
        super().__init__({"bpb": "units", "bpt": "tokens"})
        self.save_hyperparameters({"vocabulary_size": 4})
        self.logits = torch.nn.Parameter(torch.arange(4.0))
        self.logged: dict[str, object] = {}

    def score(self, batch: Batch, part: str) -> tuple[Tensor, Tensor, Tensor]:
        """Score the labels."""
        labels = batch["labels"].flatten()
        tokens = (labels != NOT_SCORED).sum()
        nats = total_nats(self.logits.expand(len(labels), 4), labels)
        return nats, tokens, units_scored(batch, tokens)

    def training_flops_of(self, batch: Batch) -> int:
        """Return any number."""
        return 1

    def log(self, name: str, value: object, **given: object) -> None:  # type: ignore[override]
        """Keep what is logged."""
        self.logged[name] = value

    def log_dict(self, figures: dict[str, Tensor], **given: object) -> None:  # type: ignore[override]
        """Keep what is logged."""
        self.logged.update(figures)


NATS = (-F.log_softmax(torch.arange(4.0), 0)).tolist()


def _batch(labels: list[int], units: int) -> Batch:
    row = torch.tensor([labels])
    return {"input_ids": row.clamp(min=0), "labels": row, "units_scored": torch.tensor([units])}


def test_total_nats_are_the_sum_over_scored_tokens_in_float64() -> None:
    logits = torch.arange(4.0).expand(3, 4)
    nats = total_nats(logits, torch.tensor([0, NOT_SCORED, 2]))
    assert nats.dtype == torch.float64
    assert nats.item() == pytest.approx(NATS[0] + NATS[2], rel=1e-6)
    assert total_nats(logits, torch.full((3,), NOT_SCORED)) == 0


def test_bfloat16_logits_are_scored_in_float32() -> None:
    logits = torch.randn(5, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.arange(5)
    assert total_nats(logits, labels).item() == total_nats(logits.float(), labels).item()


def test_units_are_those_of_the_batch_else_one_per_token() -> None:
    tokens = torch.tensor(7)
    assert units_scored({"units_scored": torch.tensor([2, 3])}, tokens) == 5
    assert units_scored({}, tokens) == 7


def test_training_returns_and_logs_the_mean_per_scored_token() -> None:
    model = Table()
    loss = model.training_step(_batch([0, NOT_SCORED, 3], units=5), 0)
    total = NATS[0] + NATS[3]
    assert loss.item() == pytest.approx(total / 2, rel=1e-6)
    logged = {name: float(value) for name, value in model.logged.items()}  # type: ignore[arg-type]
    assert logged == pytest.approx(
        {
            "train/loss": total / 2,
            "train/bpb": total / math.log(2) / 5,
            "train/bpt": total / math.log(2) / 2,
        },
        rel=1e-6,
    )
    loss.backward()
    probabilities = model.logits.detach().softmax(0)
    expected = probabilities - torch.tensor([0.5, 0, 0, 0.5])
    torch.testing.assert_close(model.logits.grad, expected)


def test_a_batch_without_scored_tokens_trains_nothing() -> None:
    model = Table()
    loss = model.training_step(_batch([NOT_SCORED, NOT_SCORED], units=0), 0)
    loss.backward()
    assert loss.item() == 0
    assert model.logits.grad is not None
    assert model.logits.grad.eq(0).all()


@pytest.mark.parametrize("part", ["val", "test"])
def test_evaluation_divides_sums_over_batches_not_means_of_batches(part: str) -> None:
    model = Table()
    step = {"val": model.validation_step, "test": model.test_step}[part]
    step(_batch([0, 0, 0], units=4), 0)
    step(_batch([3, NOT_SCORED, NOT_SCORED], units=6), 1)
    total = 3 * NATS[0] + NATS[3]
    values = {
        name: metric.compute().item()  # type: ignore[attr-defined]
        for name, metric in model.logged.items()
    }
    assert values == pytest.approx(
        {
            f"{part}/loss": total / 4,
            f"{part}/bpb": total / math.log(2) / 10,
            f"{part}/bpt": total / math.log(2) / 4,
        },
        rel=1e-6,
    )


@pytest.mark.parametrize(("ids", "seen"), [([0, 4], r"0\.\.4"), ([-1, 3], r"-1\.\.3")])
def test_ids_outside_of_the_vocabulary_are_an_error(ids: list[int], seen: str) -> None:
    model = Table()
    model.check_ids(torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=rf"in 0\.\.3 \(vocabulary_size=4\), got {seen}"):
        model.check_ids(torch.tensor(ids))


def test_no_ids_are_inside_of_the_vocabulary() -> None:
    Table().check_ids(torch.zeros(2, 0, dtype=torch.int64))
