"""States of metrics keep their types whatever the module around them is cast to."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torchmetrics import MeanMetric, Metric, MetricCollection, SumMetric
from torchmetrics.classification import MulticlassAccuracy

from lit_modules.metrics import (
    AnswerScore,
    CandidateAccuracy,
    CoreferenceScore,
    HotpotScore,
    classification_metrics,
)
from lit_modules.metrics import exact as exact_metrics
from lit_modules.metrics.bits import BitsPerUnit, NatsPerToken
from lit_modules.metrics.exact import ExactMean, Metrics, leave_inference_mode
from lit_modules.nn import precision

UPDATES = 2000
CASTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "to bfloat16": lambda module: module.to(torch.bfloat16),
    "to float16": lambda module: module.to(torch.float16),
    "to float64": lambda module: module.to(torch.float64),
    "half": lambda module: module.half(),
    "bfloat16": lambda module: module.bfloat16(),
    "type": lambda module: module.type(torch.float16),
}
GOLD = [[(0, 1), (6, 6), (13, 14)], [(3, 4), (16, 16)]]
SOME = [[(0, 1), (6, 6), (12, 14)], [(3, 4), (15, 16), (2, 2)]]


def floats(*values: float) -> torch.Tensor:
    """Numbers as float32, whatever torch's default type."""
    return torch.tensor(values, dtype=torch.float32)


def choices(at: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three examples, of which one is right in every fourth batch alone."""
    return torch.tensor([0, 1, 2]), torch.tensor([0 if at % 4 == 0 else 1, 2, -1])


def mean_choice() -> float:
    return sum(at % 4 == 0 for at in range(UPDATES)) / (2 * UPDATES)


def update_answers(metric: Metric, at: int) -> None:
    metric.update(
        ["red" if at % 4 == 0 else "blue"], [["red"]], questions=[f"question {at}"], scores=[0.5]
    )


def update_hotpot(metric: Metric, at: int) -> None:
    facts = [("a", 0), ("b", 1)]
    metric.update(["red"], [facts if at % 4 == 0 else facts[:1]], ["red hat"], [facts])


# How each metric is made, what a batch adds, and the right figure after all batches.
CASES: dict[str, tuple[Callable[[], Metric], Callable[[Any, int], None], dict[str, float]]] = {
    "nats": (NatsPerToken, lambda m, at: m.update(floats(5.55 * 300).sum(), 300), {"": 5.55}),
    "bits": (
        BitsPerUnit,
        lambda m, at: m.update(floats(5.55 * 300).sum(), 300),
        {"": 5.55 / math.log(2)},
    ),
    "mean": (ExactMean, lambda m, at: m.update(floats(1.25, 70000.0)), {"": 35000.625}),
    "candidates": (
        CandidateAccuracy,
        lambda m, at: m.update(*choices(at)),
        {"": mean_choice()},
    ),
    "accuracy": (
        lambda: classification_metrics(3)["accuracy"],
        lambda m, at: m.update(*choices(at)),
        {"": mean_choice()},
    ),
    "answers": (AnswerScore, update_answers, {"exact_match": 0.25, "f1": 0.25}),
    "hotpot": (HotpotScore, update_hotpot, {"answer_f1": 2 / 3, "support_recall": 0.625}),
    "coreference": (
        CoreferenceScore,
        lambda m, at: m.update(SOME, GOLD),
        {"mention_precision": 3 / 6, "mention_recall": 3 / 5, "muc_precision": 1 / 4},
    ),
}


def figures(metric: Metric) -> dict[str, torch.Tensor]:
    found = metric.compute()
    return found if isinstance(found, dict) else {"": found}


# `half` and `bfloat16` cast as `type` does.
EVERY_DAY = ("to bfloat16", "to float64", "type")


@pytest.mark.parametrize(
    "cast",
    [x if x in EVERY_DAY else pytest.param(x, marks=pytest.mark.long) for x in sorted(CASTS)],
)
@pytest.mark.parametrize("name", sorted(CASES))
def test_every_metric_keeps_its_figure(name: str, cast: str) -> None:
    make, update, right = CASES[name]
    module = nn.ModuleDict({"metric": make()})
    update(module["metric"], 0)
    CASTS[cast](module)
    module["metric"].reset()
    for at in range(UPDATES):
        update(module["metric"], at)
    found = figures(module["metric"])
    for figure, value in right.items():
        assert found[figure].dtype == torch.float32
        assert float(found[figure]) == pytest.approx(value, rel=2e-7)


@pytest.mark.parametrize("name", sorted(CASES))
def test_figures_are_float32_at_least_under_any_default_type(name: str) -> None:
    make, update, right = CASES[name]
    for default, wanted in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        torch.set_default_dtype(default)
        try:
            module = nn.ModuleDict({"metric": make()}).to(default)
            for at in range(8):
                update(module["metric"], at)
            found = figures(module["metric"])
        finally:
            torch.set_default_dtype(torch.float32)
        for figure, value in right.items():
            if name != "accuracy":  # torchmetrics divides counts as float32
                assert found[figure].dtype == wanted
            assert float(found[figure]) == pytest.approx(value, rel=2e-7)


def test_metrics_of_torchmetrics_sum_in_float64_inside_a_module() -> None:
    metrics = Metrics({"mean": MeanMetric(), "all": MetricCollection([SumMetric()])})
    metrics["accuracy"] = MulticlassAccuracy(3, average="micro")
    module = nn.ModuleDict({"metrics": nn.ModuleDict({"test": metrics}), "layer": nn.Linear(2, 2)})
    module.to(torch.bfloat16)
    assert module["layer"].weight.dtype == torch.bfloat16
    for _ in range(UPDATES):
        metrics["mean"].update(torch.tensor(1.001))
        metrics["all"].update(torch.tensor(1.001))
        metrics["accuracy"].update(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 0, 1, 1]))
    once = float(torch.tensor(1.001))
    assert metrics["mean"].mean_value.dtype == torch.float64
    assert float(metrics["mean"].compute()) == pytest.approx(once, rel=1e-12)
    assert float(metrics["all"]["SumMetric"].compute()) == pytest.approx(UPDATES * once, rel=1e-12)
    assert float(metrics["accuracy"].compute()) == 0.25
    metrics["mean"].reset()
    assert metrics["mean"].mean_value.dtype == torch.float64


def test_metrics_that_were_built_under_a_half_default_type_sum_in_float64() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        metrics = Metrics({"mean": MeanMetric()})
    finally:
        torch.set_default_dtype(torch.float32)
    for _ in range(UPDATES):
        metrics["mean"].update(torch.tensor(1.001))
    assert float(metrics["mean"].compute()) == pytest.approx(1.001, rel=1e-7)


def test_metrics_of_a_meta_module_count_once_it_has_memory() -> None:
    with torch.device("meta"):
        metrics = Metrics({"mean": MeanMetric(), "bits": BitsPerUnit(), "exact": ExactMean()})
        module = nn.ModuleDict({"metrics": metrics, "layer": nn.Linear(2, 2)})
    module.to_empty(device="cpu")
    metrics["mean"].update(torch.tensor(3.0))
    metrics["bits"].update(torch.tensor(math.log(2)), 2)
    metrics["exact"].update(torch.tensor([1.0, 2.0]))
    found = [float(metrics[name].compute()) for name in ("mean", "bits", "exact")]
    assert found == [3.0, 0.5, 1.5]


def without_float64(device: torch.device) -> torch.dtype:
    return torch.float32


@pytest.mark.parametrize("name", ["nats", "mean", "coreference", "hotpot"])
def test_without_float64_sums_are_compensated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_metrics, "sum_dtype", without_float64)
    make, update, right = CASES[name]
    metric = make()
    floats = [s for s in metric._defaults.values() if s.is_floating_point()]
    assert floats
    assert {state.dtype for state in floats} == {torch.float32}
    for at in range(UPDATES):
        update(metric, at)
    for figure, value in right.items():
        assert float(figures(metric)[figure]) == pytest.approx(value, rel=2e-7)


def test_compensation_finds_what_float32_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_metrics, "sum_dtype", without_float64)
    metric = ExactMean()
    metric.update(torch.tensor(2.0**25))
    for _ in range(1001):  # each is lost in float32: 2^25 + 1 is 2^25
        metric.update(torch.tensor(1.0))
    assert float(metric.sum) == 2**25
    assert float(metric.total("sum")) == 2**25 + 1001
    metric.update(torch.tensor(math.inf))
    metric.update(torch.tensor(1.0))
    assert float(metric.total("sum")) == math.inf


def test_types_without_float64_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision.sum_dtype(torch.device("cpu")) == torch.float64
    monkeypatch.setattr(precision, "_has_float64", lambda kind: kind != "mps")
    assert precision.sum_dtype(torch.device("mps")) == torch.float32


def test_what_inference_mode_left_can_be_added_to() -> None:
    metrics = Metrics({"mean": MeanMetric(), "bits": BitsPerUnit()})
    with torch.inference_mode():
        metrics["mean"].update(torch.tensor(1.0))
        metrics["bits"].update(torch.tensor(1.0), 1)
        metrics["mean"].reset()
        leave_inference_mode(metrics)
    assert metrics["mean"].mean_value.is_inference()
    leave_inference_mode(metrics)
    metrics["mean"].update(torch.tensor(3.0))
    metrics["bits"].update(torch.tensor(3.0), 1)
    assert float(metrics["mean"].compute()) == 3.0
    assert float(metrics["bits"].compute()) == pytest.approx(2 / math.log(2))


@pytest.mark.parametrize("name", sorted(CASES))
def test_copies_and_pickles_go_on(name: str) -> None:
    make, update, _ = CASES[name]
    metric = make()
    update(metric, 0)
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        update(other, 1)
        assert other.update_count == 2
        assert other.state_dict() == {}
