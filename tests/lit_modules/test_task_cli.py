"""Every task from its official files through the command line: fit, test, predict, evaluate."""

import json
from pathlib import Path
from typing import Any

import pytest

from lit_modules.cli import main
from lit_modules.evaluation import COUNTS
from tests.lit_modules.task_files import DATA_SETS, files_of

ROOT = Path(__file__).parents[2]

SMALL = [
    *("--model.encoder.layers=1", "--model.encoder.heads=2", "--model.encoder.width=16"),
    *("--model.encoder.window=16", "--model.encoder.max_length=256"),
    *("--trainer.max_epochs=1", "--trainer.accelerator=cpu"),
    *("--trainer.enable_progress_bar=false", "--run.pictures=false", "--run.name=run"),
]
LENGTH = {"ontonotes": "--data.segment_length=64"}
MORE = {
    "squad": ["--model.no_answer=true"],
    "triviaqa": ["--model.rules=triviaqa"],
    "ontonotes": ["--model.ranking.inner=16"],
}
PARTS = ("train", "val", "test")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(command: str, *words: str) -> None:
    assert main([command, *words]) == 0


def data_words(name: str) -> list[str]:
    files = files_of(name, Path("files"))
    length = LENGTH.get(name, "--data.max_length=128")
    own = [f"--data.{split}={file}" for split, file in files.items()]
    return [f"--data={name}", *own, length, "--data.cache_dir=cache"]


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) != 0
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


# One of each kind of answer; `commands/test_train.py` classifies every day.
EVERY_DAY = ("wikihop", "squad", "hotpotqa", "ontonotes")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [x if x in EVERY_DAY else pytest.param(x, marks=pytest.mark.long) for x in DATA_SETS],
)
def test_a_task_trains_tests_predicts_and_is_evaluated(name: str) -> None:
    data, more = data_words(name), MORE.get(name, [])
    run("fit", *data, *SMALL, *more)
    figures = json.loads(Path("runs/run/figures.json").read_text())
    if name == "wikihop":
        run("validate", *data, *SMALL, *more, "--ckpt_path=last")
    run("predict", *data, *SMALL, *more, "--ckpt_path=best")
    # The saved configuration is enough, and so is the submission: all tell what the test told.
    (submission,) = Path("runs/run").glob("submission.*")
    config = ["--config=runs/run/config.yaml", "--split=test", "--output=score.json"]
    rules = [word.replace("--model.", "--") for word in more if "ranking" not in word]
    given = [*data, *rules, "--split=test", "--output=score.json"]
    for file, words in (
        ("runs/run/predictions.jsonl", config),
        (str(submission), config),
        (str(submission), given),
    ):
        run("evaluate", *words, f"--predictions={file}")
        scored: dict[str, Any] = json.loads(Path("score.json").read_text())
        assert {scored.pop(name, 0) for name in COUNTS if name.startswith("missing")} == {0}
        assert scored.pop("records") == (3 if name == "ontonotes" else 4)
        assert scored == pytest.approx(
            {metric: figures[f"test/{metric}"] for metric in scored}, abs=1e-6
        )
        assert len(scored) >= 1


def test_the_data_set_names_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    data = data_words("wikihop")
    run("fit", *data, *SMALL, "--run.test=false")
    assert "CandidateChoice" in Path("runs/run/config.yaml").read_text()
    message = error_of(capsys, "fit", *data, *SMALL, "--model=classification")
    assert "Classification takes 'classes' from its data set, which WikiHop does not" in message
    message = error_of(capsys, "fit", *data, *SMALL, "--model.encoder.widht=3")
    assert "widht" in message


OWN = '''
"""A task of somebody's own: data, head and rule for global tokens, in a script."""

from dataclasses import dataclass

import datamodules
import torch
from datamodules import global_tokens
from datamodules.files.records import Record
from datamodules.tasks.base import TaskData
from datamodules.tasks.rows import Example
from datamodules.files.text_records import json_lines
from torchmetrics import MeanMetric
from lit_modules.task import TaskModule


@global_tokens.register("every-other")
def every_other():
    """Every other token."""
    return lambda roles: torch.arange(len(roles)) % 2 == 0


@dataclass(frozen=True)
class Text(Record):
    text: str


@datamodules.register("my-lengths")
class MyLengths(TaskData):
    """How long a text is."""

    task = "my-regression"
    global_rule = "every-other"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    def read(self, document, split):
        for number, row in json_lines(document):
            yield Text(row["id"], f"{document}:{number}", row["text"])

    def encode(self, record, split):
        rows, notes = self.rows(record, self.first(), self.pieces(record.text), self.separator())
        return Example(record.id, rows, {"value": len(record.text) / 100}, notes)

    def labels(self, examples):
        return {"values": torch.tensor([example.fields["value"] for example in examples])}


class MyHead(TaskModule):
    """A number for a text."""

    def __init__(self, vocabulary_size: int, scale: float = 1.0, **common):
        super().__init__(vocabulary_size, **common)
        self.scale = scale

    def build_head(self, width, dropout):
        self.number = torch.nn.Linear(width, 1)

    def head(self, hidden, batch):
        return self.number(hidden[:, 0])[:, 0] * self.scale

    def losses(self, scores, batch):
        return (scores - batch["values"]) ** 2, torch.ones_like(scores, dtype=torch.bool)

    def decode(self, scores, batch):
        return [{"id": i, "number": s} for i, s in zip(batch["ids"], scores.tolist())]

    def build_metrics(self):
        return {"error": MeanMetric()}

    def update_metrics(self, metrics, scores, predictions, batch):
        metrics["error"].update((scores - batch["values"]).abs())
'''


def test_a_task_of_ones_own_from_a_script(monkeypatch: pytest.MonkeyPatch) -> None:

    Path("my_task.py").write_text(OWN)
    rows = [json.dumps({"id": str(n), "text": "word " * n}) for n in range(1, 5)]
    files = {part: f"{part}.jsonl" for part in PARTS}
    for file in files.values():
        Path(file).write_text("\n".join(rows))
    own = [f"--data.{part}={file}" for part, file in files.items()]
    words = ["--import=my_task", "--data=my-lengths", *own, "--data.cache_dir=cache"]
    words += ["--model=my_task.MyHead", "--model.scale=2.0", "--data.max_length=64", *SMALL]
    run("fit", *words)
    run("predict", *words, "--ckpt_path=best")
    figures = json.loads(Path("runs/run/figures.json").read_text())
    assert figures["test/error"] > 0
    lines = Path("runs/run/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["1", "2", "3", "4"]
    assert not list(Path("runs/run").glob("submission.*"))


def test_evaluate_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    data = data_words("wikihop")
    right = {f"val-{n}": "blue" for n in range(4)}

    def error(content: str, *words: str) -> str:
        Path("p.json").write_text(content)
        return error_of(capsys, "evaluate", *(words or data), "--predictions=p.json")

    assert "'test-0' belongs to no record of the val split" in error('{"test-0": "blue"}')
    assert "the answer to 'val-0' must be a text, got 3" in error('{"val-0": 3}')
    assert "neither JSON nor lines of JSON" in error("blue")
    twice = json.dumps({"id": "val-0", "answer": "blue"}) + "\n"
    assert "'val-0' is predicted twice" in error(twice * 2)
    assert "p.json, line 2: expected a JSON object" in error(twice + "{broken")
    assert "needs a data set" in error("{}", "--split=val")
    assert "no such file" in error_of(capsys, "evaluate", *data, "--predictions=none.json")
    assert "MyData has the task 'mine'" in _error_of_score()
    del right["val-2"]
    Path("p.json").write_text(json.dumps(right))
    run("evaluate", *data, "--predictions=p.json", "--output=score.json")
    assert json.loads(Path("score.json").read_text())["missing"] == 1


def _error_of_score() -> str:
    from lit_modules.evaluation import score

    class MyData:
        task = "mine"

    with pytest.raises(ValueError, match="evaluated are") as caught:
        score(MyData(), "val", {})
    return str(caught.value)
