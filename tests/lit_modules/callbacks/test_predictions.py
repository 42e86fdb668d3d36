from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_modules.callbacks.predictions import WritePredictions, read_rows


def trainer(data: Any, rank: int = 0, size: int = 1) -> Any:
    return SimpleNamespace(
        datamodule=data,
        global_rank=rank,
        world_size=size,
        is_global_zero=rank == 0,
        strategy=SimpleNamespace(barrier=lambda: None),
    )


class Data:
    def decode(self, ids: list[int]) -> str:
        return "".join("abc"[i] for i in ids)


class Official(Data):
    content = "{}"

    def submission(self, rows: list[Any]) -> str:
        self.rows = rows
        return self.content


def test_tokens_become_text_and_mappings_stay(tmp_path: Path) -> None:
    callback, run = WritePredictions(tmp_path), trainer(Data())
    callback.on_predict_start(run, None)  # type: ignore[arg-type]
    rows = [torch.tensor([2, 0]), {"id": "é", "label": 1}, torch.tensor([0.5])]
    callback.on_predict_batch_end(run, None, rows)  # type: ignore[arg-type]
    callback.on_predict_end(run, None)  # type: ignore[arg-type]
    found = list(read_rows(tmp_path / "predictions.jsonl"))
    assert found == [{"text": "ca"}, {"id": "é", "label": 1}, {"prediction": [0.5]}]
    assert not list(tmp_path.glob("submission*"))


def test_a_score_that_is_not_finite_is_null(tmp_path: Path) -> None:
    """As that of an answer to an empty example."""
    callback, run = WritePredictions(tmp_path), trainer(Data())
    callback.on_predict_start(run, None)  # type: ignore[arg-type]
    rows = [{"id": "q", "answer": "", "score": -float("inf"), "no_answer_score": 1.0}]
    callback.on_predict_batch_end(run, None, rows)  # type: ignore[arg-type]
    [line] = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert line == '{"id": "q", "answer": "", "score": null, "no_answer_score": 1.0}'


@pytest.mark.parametrize(
    ("content", "name"),
    [('{"a": 1}', ".json"), ('{"a": 1}\n{"b": 2}', ".jsonl"), ("a true 0.5", ".txt")],
)
def test_the_submission_is_of_all_processes(tmp_path: Path, content: str, name: str) -> None:
    data = Official()
    data.content = content
    callback = WritePredictions(tmp_path)
    for rank in (1, 0):
        run = trainer(data, rank, 2)
        callback.on_predict_start(run, None)  # type: ignore[arg-type]
        # The last batch of the second process is a filler, without predictions.
        for batch in ([0, 1], [2, 3]) if rank == 0 else ([10, 11, 12], []):
            rows = [{"id": str(place)} for place in batch]
            callback.on_predict_batch_end(run, None, rows)  # type: ignore[arg-type]
        callback.on_predict_end(run, None)  # type: ignore[arg-type]
    assert (tmp_path / f"submission{name}").read_text() == content
    assert [row["id"] for row in data.rows] == ["0", "1", "10", "11", "12", "2", "3"]
    assert list(read_rows(tmp_path / "predictions.jsonl")) == data.rows
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "predictions.jsonl",
        f"submission{name}",
    ]


def test_a_data_set_without_a_format_has_no_submission(tmp_path: Path) -> None:
    class None_(Data):
        def submission(self, rows: list[Any]) -> str:
            raise NotImplementedError

    callback, run = WritePredictions(tmp_path), trainer(None_())
    callback.on_predict_start(run, None)  # type: ignore[arg-type]
    callback.on_predict_end(run, None)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]
