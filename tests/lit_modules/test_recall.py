"""What a receptive field can and cannot do: recall over a thousand tokens."""

import json
from pathlib import Path

import pytest

from lit_modules.cli import main

STEPS = 250
STAGES = f"[{{steps: {STEPS}, sequence_length: 1017, batch_size: 4}}]"


def bits_of_answers(window: int) -> float:
    """Trains one layer that sees `window` tokens back, and returns the test's bits per answer."""
    words = [
        # Four values: a guess costs two bits.
        *("fit", "--data=recall", "--data.distance=1000", "--data.values=4", "--data.keys=2"),
        *("--data.noise=2", "--data.eval_batches=4", "--model.layers=1", "--model.heads=1"),
        *("--model.width=64", "--model.dropout=0", "--model.learning_rate=0.005"),
        *("--model.pattern", json.dumps({"window": {"before": window}})),
        *("--stages.table", STAGES, "--stages.warmup=0", "--stages.decay=cosine"),
        *("--stages.floor=0.2", "--trainer.accelerator=cpu", "--trainer.logger=false"),
        "--trainer.gradient_clip_val=1",
        *("--trainer.enable_progress_bar=false", "--trainer.limit_val_batches=1"),
        *(f"--run.name=window-{window}", "--run.pictures=false", "--run.sample=0"),
    ]
    assert main(words) == 0
    figures = json.loads(Path(f"runs/window-{window}/figures.json").read_text())
    assert figures["optimizer steps"] == STEPS
    return float(figures["test/bpt"])


@pytest.mark.long
def test_recall_is_solved_where_the_field_reaches_and_only_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bits_of_answers(window=1040) < 0.5
    assert bits_of_answers(window=990) > 1.9
