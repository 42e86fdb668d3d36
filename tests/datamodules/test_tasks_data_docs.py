"""The code of docs/tasks-data.md works as it stands there."""

import json
import re
from pathlib import Path

import pytest
import torch

import datamodules
from datamodules.tasks import global_tokens

DOCS = Path(__file__).parents[2] / "docs" / "tasks-data.md"


@pytest.fixture
def examples() -> None:
    """Runs every block of code."""
    names: dict[str, object] = {"__name__": __name__}
    for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(DOCS), "exec", dont_inherit=True), names)


def test_the_task_and_the_rule_of_the_docs_work(examples: None, tmp_path: Path) -> None:
    lines = [{"text": "good " * n, "stars": n} for n in range(1, 6)]
    (tmp_path / "dev.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rule = {"name": "every-few", "every": 3}
    data = datamodules.get("reviews", path=str(tmp_path), global_tokens=rule)
    (batch,) = data.val_dataloader()
    assert batch["labels"].tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(batch["global_mask"][4], torch.arange(7) % 3 == 0)
    (tmp_path / "dev.jsonl").write_text('{"text": "x", "stars": 6}')
    with pytest.raises(ValueError, match="record 'line 1': stars: must be 1 to 5, got 6"):
        datamodules.get("reviews", path=str(tmp_path)).setup()


def test_every_task_and_rule_is_in_the_docs() -> None:
    text = DOCS.read_text(encoding="utf-8")
    tasks = [
        name
        for name in datamodules.names()
        if isinstance(factory := datamodules.describe(name).factory, type)
        and issubclass(factory, datamodules.TaskData)
    ]
    assert len(tasks) >= 9
    for name in (*tasks, *global_tokens.names()):
        assert f"`{name}`" in text
