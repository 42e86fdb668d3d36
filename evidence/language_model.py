"""One training of a byte language model through the product: its modules, data, stages, trainer."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any

import lightning
from lightning.pytorch import Callback, Trainer

from datamodules import Enwik8
from evidence.text import wikipedia
from lit_modules.callbacks.randomness import SeedEachBatch
from lit_modules.callbacks.stages import Stages
from lit_modules.language_model import LanguageModel
from lit_modules.training.stages import Stage

MODEL: Mapping[str, Any] = {
    "layers": 4,
    "heads": 4,
    "width": 64,
    "dropout": 0.0,
    "learning_rate": 3e-3,
    "weight_decay": 0.05,
    "betas": [0.9, 0.98],
}
"""The model of these rows: 0.2 million parameters, rotary positions unless a row says otherwise."""

STEPS, LENGTH, ROWS = 1000, 1024, 1
"""Optimizer steps of a training, tokens of a sequence, and sequences of a step."""

COMMON: Mapping[str, Any] = {
    "model": MODEL,
    "table": [{"steps": STEPS, "sequence_length": LENGTH, "batch_size": ROWS}],
    "evaluation": {"eval_length": 2048, "eval_step": 1024, "eval_batch_size": 4},
    "test_batches": 24,
    "validation_batches": 2,
    "validations": 10,
}
"""What the arms of these rows share, where a row does not say otherwise."""

SETUP = (
    f"Byte language model of {MODEL['layers']} layers, {MODEL['heads']} heads and width "
    f"{MODEL['width']}, trained from scratch by the product's `LanguageModel`, `Stages` and "
    f"Lightning's trainer: AdamW, rate {MODEL['learning_rate']}, cosine decay."
)
TRAINED = f"{STEPS:,} steps of a sequence of {LENGTH:,} bytes."
TESTED = (
    f"Test: the same {24 * 4 * 1024:,} bytes for all, in windows of 2,048 bytes of which the last "
    "1,024 are scored, so that each has at least 1,024 bytes before it."
)
"""The same in words, for protocols."""


class Validations(Callback):
    """Keeps what each validation found: training tokens, seconds of the processor, bits per byte.

    Time that validation takes is left out.
    """

    def __init__(self) -> None:
        self.found: list[tuple[int, float, float]] = []
        self.tokens, self.seconds = 0, 0.0
        self._since = time.process_time()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock."""
        self._since = time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the tokens of a batch and the time it took."""
        now = time.process_time()
        self.tokens += batch["input_ids"].numel()
        self.seconds, self._since = self.seconds + now - self._since, now

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Keep the figure, and start the clock again."""
        bits = float(trainer.callback_metrics["val/bpb"])
        self.found.append((self.tokens, self.seconds, bits))
        self._since = time.process_time()

    def figures(self) -> dict[str, Any]:
        """Return what a row records of it."""
        return {
            "tokens": self.tokens,
            "training_seconds": self.seconds,
            "course": [[tokens, bits] for tokens, _, bits in self.found],
            "course_seconds": [[seconds, bits] for _, seconds, bits in self.found],
        }


def data_of(seed: int, **fields: Any) -> Enwik8:
    """Return the Wikipedia sample as a data set; the seed decides which sequences are drawn."""
    return Enwik8(str(wikipedia()), split="proportional", seed=seed, **fields)


def train(model: LanguageModel, data: Enwik8, arm: Mapping[str, Any]) -> Validations:
    """Train a model on the stages of a table; return the course of validation.

    Args:
        model: The model.
        data: The data set.
        arm: `table`, stages as fields of `Stage`; `validations`, how often the model is validated,
            and `validation_batches`, on how many batches.
    """
    course = Validations()
    table = [Stage(**row) for row in arm["table"]]
    steps = sum(stage.steps for stage in table)
    trainer = quiet_trainer(
        callbacks=[
            Stages(table, warmup=0.05, decay="cosine", floor=0.02),
            SeedEachBatch(),
            course,
        ],
        max_epochs=-1,
        gradient_clip_val=1.0,
        check_val_every_n_epoch=None,
        val_check_interval=max(1, steps // arm["validations"]),
        limit_val_batches=arm["validation_batches"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, datamodule=data)
    # A trainer that is told to stop ends as if all were done; such figures must not be recorded.
    if trainer.global_step != steps:
        raise RuntimeError(f"training stopped at step {trainer.global_step} of {steps}")
    return course


def test(model: LanguageModel, data: Enwik8, batches: int) -> float:
    """Return bits per byte of the first batches of the test part."""
    trainer = quiet_trainer(limit_test_batches=batches)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(trainer.test(model, datamodule=data, verbose=False)[0]["test/bpb"])


def quiet_trainer(**fields: Any) -> Trainer:
    """Return a trainer on the processor that writes and prints nothing."""
    return Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            **fields,
        }
    )


def measure_pattern(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Train a model with a pattern from scratch, and test it.

    Args:
        arm: `pattern`, as plain data, and what `COMMON` has.
        seed: Seed of weights and of the sequences that are drawn.

    Returns:
        `bits_per_byte` on the test part; `tokens` trained on; `course`, pairs of training tokens
        and bits per byte in validation; `course_seconds`, the same over seconds of the processor;
        and `training_seconds`, which these are of the whole training.
    """
    lightning.seed_everything(seed, workers=True, verbose=False)
    data = data_of(seed, **arm["evaluation"])
    model = LanguageModel(data.vocabulary_size, pattern=arm["pattern"], **arm["model"])
    course = train(model, data, arm)
    return {"bits_per_byte": test(model, data, arm["test_batches"]), **course.figures()}
