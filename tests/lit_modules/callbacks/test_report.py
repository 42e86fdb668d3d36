"""The report at the end of a run: who takes part in its sample."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from lit_modules.callbacks import report
from lit_modules.callbacks.report import Report

PROMPT = torch.tensor([[1, 2, 3]])


class Model(nn.Module):
    """Notes the prompts that it continues."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.prompts: list[list[int]] = []

    def generate(self, prompt: torch.Tensor, new: int, **_: Any) -> list[torch.Tensor]:
        self.prompts.append(prompt[0].tolist())
        return [torch.tensor([7])] * new


@pytest.mark.parametrize(
    ("rank", "sharded", "takes_part"),
    [(0, False, True), (1, False, False), (0, True, True), (1, True, True)],
)
def test_all_processes_take_part_in_the_sample_of_a_sharded_model(
    rank: int,
    sharded: bool,
    takes_part: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", rank, raising=False)
    monkeypatch.setattr(report, "is_sharded", lambda module: sharded)
    # Of the others, a process may have no test batch of its own.
    batches = [{"input_ids": PROMPT}] if rank == 0 else []
    trainer: Any = SimpleNamespace(
        is_global_zero=rank == 0,
        callback_metrics={},
        strategy=SimpleNamespace(broadcast=lambda given: PROMPT),
        datamodule=SimpleNamespace(test_dataloader=lambda: batches, decode=str),
    )
    model: Any = Model()
    Report(tmp_path, sample=2).on_test_end(trainer, model)
    assert model.prompts == ([[1, 2, 3]] if takes_part else [])
    written = (tmp_path / "sample.txt").exists()
    assert written == (rank == 0)
    assert ("Run folder" in capsys.readouterr().out) == written
