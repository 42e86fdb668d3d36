"""Predictions in a file, compared with the reference answers of a data set."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from lit_modules.callbacks.predictions import read_rows
from lit_modules.metrics import (
    AnswerScore,
    CandidateAccuracy,
    CoreferenceScore,
    HotpotScore,
    classification_metrics,
)

__all__ = ["COUNTS", "TASKS", "read_predictions", "score"]

COUNTS = (
    "gold_singletons_left_out",
    "verified_records",
    "records",
    "missing",
    "missing_answers",
    "missing_facts",
)
"""The figures that count; all others are scores."""

Rows = dict[str, Mapping[str, Any]]
"""Predictions by id: what `predict_step` returns for each."""


# Of a submission for HotpotQA: answers and supporting facts.
_PARTS = ("answer", "sp")


def read_predictions(file: Path, data: Any) -> Rows:
    """Read `predictions.jsonl` as `predict` writes it, or the official submission file.

    Args:
        file: The predictions.
        data: The data set; it has `task`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has none of the formats of the task, or an id is there twice.
    """
    if not file.is_file():
        raise FileNotFoundError(f"--predictions {file}: no such file")
    text = file.read_text(encoding="utf-8")
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if isinstance(whole, dict) and "id" not in whole:
        read = _hotpot if data.task == "multihop-qa" else _submitted
        return read(whole, str(file))
    if text.lstrip().startswith("{"):
        rows = list(read_rows(file))
        if data.task == "extractive-qa":
            # For a question with several documents, the data set's submission chooses one answer.
            return _submitted(json.loads(data.submission(rows)), str(file))
        return _by_id(rows, str(file))
    if data.task == "coreference":
        # A response file has the format of a key, which the data set reads.
        key = type(data)(val=str(file)).references("val")
        return {id_: {"id": id_, "clusters": clusters} for id_, clusters in key}
    if data.task == "classification":
        return _by_id(_labels(text), str(file))
    raise ValueError(f"--predictions {file}: neither JSON nor lines of JSON: {text:.60}")


def score(
    data: Any,
    split: str,
    found: Rows,
    *,
    rules: str = "squad",
    no_answer: bool = False,
    singletons: bool | None = None,
) -> dict[str, float]:
    """Return the figures of predictions, and how many records have none.

    A record without a prediction counts as wrong; in classification, where there is no wrong class
    to count, it is an error. In multi-hop question answering, an answer and supporting facts may
    each be missing: `missing_answers` and `missing_facts` count them, `missing` records without
    either.

    Args:
        data: The data set; it has `task` and `references(split)`.
        split: Which records the predictions are for.
        found: Predictions by id.
        rules: How answers of extractive question answering are compared: squad or triviaqa.
        no_answer: Whether a question may have no answer.
        singletons: Whether clusters of one mention are scored in coreference; None where a
            prediction has one. Otherwise they are left out of both sides, and counted.

    Raises:
        ValueError: The task has no evaluation here, the split has no reference answers, or a
            prediction belongs to no record.
    """
    task = getattr(data, "task", None)
    if task not in TASKS:
        raise ValueError(
            f"{type(data).__name__} has the task {task!r}; evaluated are {', '.join(TASKS)}"
        )
    gold = dict(data.references(split))
    if not gold:
        raise ValueError(f"the {split} split of {type(data).__name__} has no reference answers")
    for id_ in found:
        if id_ not in gold:
            raise ValueError(
                f"the prediction for {id_!r} belongs to no record of the {split} split"
            )
    missing = [id_ for id_ in gold if id_ not in found]
    if missing and task == "classification":
        raise ValueError(f"there is no prediction for {missing[0]!r} ({len(missing)} are missing)")
    if task == "extractive-qa":
        figures = _answers(found, gold, rules, no_answer)
        verified = _verified(data, split)
        if verified:
            part = _answers(found, verified, rules, no_answer)
            figures |= {f"verified_{name}": value for name, value in part.items()}
            figures["verified_records"] = len(verified)
    elif task == "coreference":
        figures = _clusters(found, gold, singletons)
    else:
        figures = TASKS[task](found, gold, data)
    return {**figures, "records": len(gold), "missing": len(missing)}


def _classes(found: Rows, gold: Mapping[str, int], data: Any) -> dict[str, float]:
    numbers = {name: number for number, name in enumerate(getattr(data, "class_names", ()))}
    chosen = []
    for id_ in gold:
        label = found[id_]["label"]
        number = numbers.get(str(label), label) if not isinstance(label, int) else label
        if not isinstance(number, int) or not 0 <= number < data.classes:
            raise ValueError(f"label of {id_!r} must be one of {list(numbers)}, got {label!r}")
        chosen.append(number)
    metrics = classification_metrics(data.classes)
    for metric in metrics.values():
        metric.update(torch.tensor(chosen), torch.tensor(list(gold.values())))
    return {name: float(metric.compute()) for name, metric in metrics.items()}


def _candidates(found: Rows, gold: Mapping[str, str], data: Any) -> dict[str, float]:
    metric = CandidateAccuracy()
    right = [int(id_ in found and found[id_]["answer"] == answer) for id_, answer in gold.items()]
    metric.update(torch.tensor(right), torch.ones(len(right), dtype=torch.int64))
    return {"accuracy": float(metric.compute())}


def _answers(
    found: Rows, gold: Mapping[str, list[str]], rules: Any, no_answer: bool
) -> dict[str, float]:
    metric = AnswerScore(rules, no_answer=no_answer)
    answers = [found[id_]["answer"] if id_ in found else None for id_ in gold]
    metric.update(answers, list(gold.values()))
    return _plain(metric.compute())


def _multihop(found: Rows, gold: Mapping[str, Mapping[str, Any]], data: Any) -> dict[str, float]:
    metric = HotpotScore()
    answers = [found.get(id_, {}).get("answer") for id_ in gold]
    facts = [found.get(id_, {}).get("supporting_facts") for id_ in gold]
    metric.update(
        answers,
        facts,
        [one["answer"] for one in gold.values()],
        [one["supporting_facts"] for one in gold.values()],
    )
    counts = {"missing_answers": answers.count(None), "missing_facts": facts.count(None)}
    return {**_plain(metric.compute()), **counts}


def _clusters(
    found: Rows, gold: Mapping[str, Any], singletons: bool | None = None
) -> dict[str, float]:
    if singletons is None:
        singletons = any(len(cluster) == 1 for row in found.values() for cluster in row["clusters"])
    metric = CoreferenceScore(singletons)
    for id_, clusters in gold.items():
        metric.update(found.get(id_, {"clusters": []})["clusters"], clusters)
    return _plain(metric.compute())


TASKS: dict[str, Callable[[Rows, Any, Any], dict[str, float]]] = {
    "classification": _classes,
    "candidate-choice": _candidates,
    "extractive-qa": lambda found, gold, data: _answers(found, gold, "squad", False),
    "multihop-qa": _multihop,
    "coreference": lambda found, gold, data: _clusters(found, gold),
}
"""The function that scores predictions, by task."""


def _verified(data: Any, split: str) -> Any:
    """Return the reference answers that people have verified; {} where a data set has none."""
    told = getattr(data, "verified_references", None)
    return dict(told(split)) if told is not None else {}


def _plain(figures: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items()}


def _submitted(whole: Mapping[str, Any], source: str) -> Rows:
    """Read {id: answer}."""
    for id_, answer in whole.items():
        if not isinstance(answer, str):
            raise ValueError(f"{source}: the answer to {id_!r} must be a text, got {answer!r:.60}")
    return {id_: {"answer": answer} for id_, answer in whole.items()}


def _hotpot(whole: Mapping[str, Any], source: str) -> Rows:
    """Read {"answer": {id: text}, "sp": {id: [[title, sentence], ...]}}, or {id: answer}."""
    parts = {name: whole.get(name, {}) for name in _PARTS}
    if not any(name in whole and isinstance(part, dict) for name, part in parts.items()):
        return _submitted(whole, source)
    for name in whole:
        if name not in _PARTS:
            raise ValueError(f"{source}: {name!r} is none of the keys {' and '.join(_PARTS)}")
        if not isinstance(whole[name], dict):
            raise ValueError(f"{source}: {name!r} must be an object, got {whole[name]!r:.60}")
    answers, facts = _submitted(parts["answer"], source), parts["sp"]
    return {
        id_: {**answers.get(id_, {}), "supporting_facts": facts.get(id_)}
        for id_ in dict.fromkeys([*answers, *facts])
    }


def _labels(text: str) -> Iterable[dict[str, Any]]:
    """Read a table with id and label, or lines `id label confidence`."""
    lines = text.splitlines()
    if lines and {"id", "label"} <= set(lines[0].split(",")):
        yield from csv.DictReader(lines)
        return
    for line in lines:
        words = line.split()
        if words:
            yield {"id": words[0], "label": words[1] if len(words) > 1 else None}


def _by_id(rows: Iterable[Mapping[str, Any]], source: str) -> Rows:
    found: Rows = {}
    for row in rows:
        if "id" not in row:
            raise ValueError(f"{source}: a prediction has no id: {json.dumps(row):.60}")
        id_ = str(row["id"])
        if id_ in found:
            raise ValueError(f"{source}: {id_!r} is predicted twice")
        found[id_] = row
    return found
