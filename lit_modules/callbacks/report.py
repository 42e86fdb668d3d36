"""The report at the end of a run: its figures as a table, and a sample of generated text."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from lit_modules.callbacks.strict_json import dumps
from lit_modules.training.distributed import is_sharded
from lit_modules.training.stages import table_of

__all__ = ["Report", "print_table"]

PROMPT_TOKENS = 64


class Report(Callback):
    """Prints figures and a sample after a test, and writes both to the run folder.

    After training without a test there are figures of training and validation.

    Args:
        folder: The run folder.
        sample: Tokens of the sample; 0 for none.
    """

    def __init__(self, folder: str | Path, sample: int = 300) -> None:
        self.folder = Path(folder)
        self.sample = sample
        self._trained: dict[str, Any] = {}
        self._started = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    @rank_zero_only
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record steps, time and tokens of the training."""
        table = table_of(trainer)
        self._trained = {
            "optimizer steps": trainer.global_step,
            "training minutes": (time.monotonic() - self._started) / 60,
        }
        if table is not None and trainer.global_step >= table.steps:
            self._trained["training tokens"] = table.tokens
        self._trained |= _figures(trainer, "train/") | _figures(trainer, "val/")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and write the figures, then the sample.

        The first process does it; all take part in the sample of a model whose weights are sharded.
        """
        self.write(trainer, pl_module)
        shared = any(is_sharded(module) for module in pl_module.modules())
        if not shared and not trainer.is_global_zero:
            return
        text = self._write_sample(trainer, pl_module, shared)
        if not trainer.is_global_zero:
            return
        if text:
            print(f"\nSample\n{text}\n")
            (self.folder / "sample.txt").write_text(text, encoding="utf-8")
        print(f"Run folder: {self.folder}")

    @rank_zero_only
    def write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the figures that there are, and write them to `figures.json` in the run folder."""
        figures: dict[str, Any] = {
            "parameters": sum(p.numel() for p in pl_module.parameters()),
            **self._trained,
            **_figures(trainer, "test/"),
        }
        print_table("Figures", [(name, _text(value)) for name, value in figures.items()])
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "figures.json", "w", encoding="utf-8") as file:
            file.write(dumps(figures, indent=2))

    def _write_sample(self, trainer: Trainer, pl_module: LightningModule, shared: bool) -> str:
        """Let the model continue the test part; the new text is in brackets."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        generate: Any = getattr(pl_module, "generate", None)
        if not self.sample or generate is None or not hasattr(data, "decode"):
            return ""
        prompt = None
        if trainer.is_global_zero:
            prompt = next(iter(data.test_dataloader()))["input_ids"][:1, :PROMPT_TOKENS].cpu()
        if shared:
            prompt = trainer.strategy.broadcast(prompt)
        assert prompt is not None
        prompt = prompt.to(pl_module.device)
        new = generate(prompt, self.sample, temperature=0.8, top_p=0.95, seed=0)
        ids = torch.cat([token[:, None] for token in new], dim=1)
        return f"{data.decode(prompt[0].tolist())}⟦{data.decode(ids[0].tolist())}⟧"


def print_table(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print two columns, with Rich where it is installed."""
    if importlib.util.find_spec("rich") is None:
        width = max((len(name) for name, _ in rows), default=0)
        print(f"\n{title}")
        for name, value in rows:
            print(f"  {name:<{width}}  {value}")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value", title=title)
    table.columns[1].justify = "right"
    for name, value in rows:
        table.add_row(name, value)
    Console().print(table)


def _figures(trainer: Trainer, prefix: str) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in sorted(trainer.callback_metrics.items())
        if name.startswith(prefix) and not name.endswith(("_step", "_epoch"))
    }


def _text(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4f}"
