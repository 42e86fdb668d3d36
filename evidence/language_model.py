"""One training of a byte language model through the product: its modules, data, stages, trainer."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, Trainer

from datamodules import Enwik8
from evidence.text import wikipedia
from lit_modules.callbacks.randomness import SeedEachBatch
from lit_modules.callbacks.stages import Stages
from lit_modules.language_model import LanguageModel
from lit_modules.training.stages import Stage

SCORED = 64
"""Windows of the test part that are scored, each for its last `step` bytes."""


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


def data_of(seed: int, **fields: Any) -> Enwik8:
    """Return the Wikipedia sample as a data set; the seed decides which sequences are drawn."""
    return Enwik8(str(wikipedia()), split="proportional", seed=seed, **fields)


def train(
    model: LanguageModel,
    data: Enwik8,
    table: Sequence[Mapping[str, Any]],
    *,
    validate_every: int,
    validation_batches: int,
    stages: Mapping[str, Any] | None = None,
) -> tuple[Trainer, Validations]:
    """Train a model on the stages of a table; return the trainer and the course of validation.

    Args:
        model: The model.
        data: The data set.
        table: Stages, as fields of `Stage`.
        validate_every: Optimizer steps between two validations.
        validation_batches: Batches of a validation.
        stages: Further arguments of `Stages`.
    """
    course = Validations()
    settings = {"warmup": 0.05, "decay": "cosine", "floor": 0.02, **(stages or {})}
    trainer = quiet_trainer(
        callbacks=[Stages([Stage(**row) for row in table], **settings), SeedEachBatch(), course],
        max_epochs=-1,
        gradient_clip_val=1.0,
        check_val_every_n_epoch=None,
        val_check_interval=validate_every,
        limit_val_batches=validation_batches,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, datamodule=data)
    return trainer, course


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
    """Train a model of the common size with the pattern of an arm, and test it.

    Args:
        arm: `pattern`, and whatever of `table` and `model` is not as in the common size.
        seed: Seed of weights and of the sequences that are drawn.
    """
    raise NotImplementedError
