"""The bar in a terminal, and lines elsewhere."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from lit_modules.callbacks.progress import ProgressLines, StageRichBar, progress
from lit_modules.callbacks.stages import Stages
from lit_modules.training.stages import Stage


def trainer(**fields: Any) -> Any:
    loop = SimpleNamespace(
        epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(is_last_batch=False))
    )
    basic = {"fit_loop": loop, "current_epoch": 1, "max_epochs": 3, "global_step": 7}
    return SimpleNamespace(**{**basic, "callbacks": [], "loggers": [], **fields})


@pytest.mark.parametrize(("terminal", "kind"), [(True, StageRichBar), (False, ProgressLines)])
def test_the_output_decides(monkeypatch: pytest.MonkeyPatch, terminal: bool, kind: type) -> None:
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: terminal)
    assert type(progress()) is kind


def test_a_line_says_where_the_run_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ProgressLines(seconds=1000)
    shown = {"train/loss": 1.23456, "train/tokens_per_second": 12345.6}
    monkeypatch.setattr(lines, "get_metrics", lambda *args: shown)
    stages = Stages([Stage(5, 8), Stage(5, 8), Stage(5, 8)])
    lines.on_train_batch_end(trainer(callbacks=[stages]), None)  # type: ignore[arg-type]
    lines.on_train_batch_end(trainer(callbacks=[stages]), None)  # type: ignore[arg-type]
    assert capsys.readouterr().out == (
        "stage 2/3  step 7/15  train/loss 1.235  train/tokens_per_second 12,346\n"
    )


def test_a_run_without_a_last_epoch_names_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ProgressLines(seconds=1000)
    monkeypatch.setattr(lines, "get_metrics", lambda *args: {})
    lines.on_train_batch_end(trainer(max_epochs=-1), None)  # type: ignore[arg-type]
    assert capsys.readouterr().out == "epoch 2  step 7  \n"


def test_only_one_process_prints(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ProgressLines()
    lines.disable()
    lines.on_train_batch_end(trainer(), None)  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""


def test_the_bar_counts_stages() -> None:
    bar = StageRichBar()
    bar._trainer = trainer(callbacks=[Stages([Stage(5, 8)])])
    assert bar._get_train_description(1).strip() == "stage 2/3"
    bar._trainer = trainer()
    assert bar._get_train_description(0).strip() == "epoch 1/3"
