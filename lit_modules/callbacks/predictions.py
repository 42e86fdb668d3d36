"""Predictions in a file: one JSON object per line, with token ids decoded to text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_modules.callbacks.strict_json import dumps

__all__ = ["WritePredictions", "read_rows"]


class WritePredictions(Callback):
    """Writes what `predict_step` returns to `predictions.jsonl` in the run folder.

    A number that is not finite, as the score of an answer where there is no text, is null.
    Token ids become text through the data set's `decode`. Several processes write a file each, and
    the first joins them in the order of the data: of each batch, the parts of all processes one
    after the other. From the predictions of a task, which are mappings, the data set then makes its
    official submission file with `submission(predictions)`, where it has one: `submission.json`,
    `.jsonl` or `.txt`, as its content is.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def _file(self, trainer: Trainer, rank: int | None = None) -> Path:
        rank = trainer.global_rank if rank is None else rank
        suffix = f"-{rank}" if trainer.world_size > 1 else ""
        return self.folder / f"predictions{suffix}.jsonl"

    def _batches(self, trainer: Trainer, rank: int | None = None) -> Path:
        """The file with the number of predictions of each batch of a process."""
        return self._file(trainer, rank).with_suffix(".batches")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start an empty file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file(trainer).write_text("", encoding="utf-8")
        if trainer.world_size > 1:
            self._batches(trainer).write_text("", encoding="utf-8")

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any
    ) -> None:
        """Append the predictions of a batch."""
        decode = getattr(trainer.datamodule, "decode", None)  # type: ignore[attr-defined]
        with open(self._file(trainer), "a", encoding="utf-8") as file:
            for row in outputs:
                file.write(dumps(_record(row, decode)) + "\n")
        if trainer.world_size > 1:
            with open(self._batches(trainer), "a", encoding="utf-8") as counts:
                counts.write(f"{len(outputs)}\n")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the submission file, and print the paths of the files."""
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        whole = self.folder / "predictions.jsonl"
        if trainer.world_size > 1:
            self._join(trainer, whole)
        print(f"Predictions: {whole}")
        made = getattr(trainer.datamodule, "submission", None)  # type: ignore[attr-defined]
        if made is None:
            return
        try:
            content = made(list(read_rows(whole)))
        except NotImplementedError:
            return
        target = self.folder / f"submission{_suffix(content)}"
        target.write_text(content, encoding="utf-8")
        print(f"Submission: {target}")

    def _join(self, trainer: Trainer, whole: Path) -> None:
        """Join the files of all processes, batch by batch, and remove them."""
        ranks = range(trainer.world_size)
        counts = [self._batches(trainer, rank).read_text().split() for rank in ranks]
        with ExitStack() as stack:
            out = stack.enter_context(open(whole, "w", encoding="utf-8"))
            files = [
                stack.enter_context(open(self._file(trainer, rank), encoding="utf-8"))
                for rank in ranks
            ]
            for batch in zip_longest(*counts, fillvalue="0"):
                for file, count in zip(files, batch, strict=True):
                    out.writelines(islice(file, int(count)))
        for rank in ranks:
            self._file(trainer, rank).unlink()
            self._batches(trainer, rank).unlink()


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines.

    Raises:
        ValueError: A line is no object.
    """
    with open(file, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"{file}, line {number}: expected a JSON object, got {line:.60}")
            yield row


def _record(row: Any, decode: Any) -> dict[str, Any]:
    if isinstance(row, dict):
        return row
    plain = row.tolist() if isinstance(row, Tensor) else row
    tokens = isinstance(row, Tensor) and row.dtype == torch.int64 and row.ndim == 1
    return {"text": decode(plain)} if tokens and decode else {"prediction": plain}


def _suffix(content: str) -> str:
    """Return the file extension for this content."""
    for suffix, parts in ((".json", [content]), (".jsonl", content.splitlines())):
        try:
            if all(isinstance(json.loads(part), dict) for part in parts):
                return suffix
        except ValueError:
            continue
    return ".txt"
