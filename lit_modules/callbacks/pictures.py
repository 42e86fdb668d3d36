"""Pictures of a run: what attends to what, how far layers see, curves with stages marked."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from lit_modules.callbacks.csv_log import read_log
from lit_modules.metrics.bits import BITS_NAMES
from lit_modules.training.stages import table_of

__all__ = ["Pictures", "draw_curves"]

LONGEST_DRAWN = 1024
"""Largest number of tokens of a drawn pattern; with more, a window is too thin to see."""


class Pictures(Callback):
    """Draws `patterns.png` and `curves.png` in the run folder when training ends.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw; a failure is reported as a warning and does not stop the run."""
        if importlib.util.find_spec("matplotlib") is None:
            rank_zero_warn("no pictures: matplotlib is not installed (the extra `plot`)")
            return
        try:
            self._draw(trainer, pl_module)
        except Exception as error:
            rank_zero_warn(f"no pictures: {type(error).__name__}: {error}")

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        table = table_of(trainer)
        firsts = table.first_steps if table else ()
        lengths = [stage.sequence_length for stage in table.stages] if table else []
        draw_curves(self.folder / "metrics.csv", self.folder / "curves.png", firsts, lengths)
        net: Any = getattr(pl_module, "net", None)
        if hasattr(net, "pattern") and hasattr(net, "heads"):
            import sparse_patterns as sp

            length = min(max(lengths, default=LONGEST_DRAWN), LONGEST_DRAWN)
            sizes = {"heads": net.heads, "layers": len(net.blocks)}
            figure = sp.draw(net.pattern, length, **sizes, scale="auto")
            figure.savefig(self.folder / "patterns.png", dpi=120)


def draw_curves(
    log: str | os.PathLike[str],
    output: str | os.PathLike[str],
    first_steps: Sequence[int] = (),
    lengths: Sequence[int] = (),
) -> None:
    """Draw every loss and every bits-per-unit of a log over the steps.

    Args:
        log: The `metrics.csv` of a run.
        output: The picture to write.
        first_steps: Where stages begin; each is marked by a line.
        lengths: Sequence length of each stage, written at its line.
    """
    from matplotlib.figure import Figure

    rows = read_log(log)
    names = sorted({name for row in rows for name in row if not name.startswith("test/")})
    titles = {"loss": "loss (nats)"}
    titles |= {short: f"bits per {unit}" for unit, short in BITS_NAMES.items()}
    panels = [
        (title, shown)
        for short, title in titles.items()
        if (shown := [name for name in names if name.endswith(f"/{short}")])
    ]
    # A figure without pyplot: no window system, and nothing global that a training run would leave.
    figure = Figure(figsize=(8, 3.2 * max(1, len(panels))), layout="constrained")
    axes = figure.subplots(max(1, len(panels)), 1, squeeze=False, sharex=True)[:, 0]
    for axis, (title, shown) in zip(axes, panels, strict=False):
        for name in shown:
            points = [(row["step"], row[name]) for row in rows if name in row]
            marker = "o" if len(points) < 40 else None
            axis.plot(*zip(*points, strict=True), label=name, marker=marker, markersize=3)
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        for index, first in enumerate(first_steps):
            axis.axvline(first, color="grey", linestyle="--", linewidth=0.8)
            if index < len(lengths):
                axis.annotate(
                    f"{lengths[index]:,}",
                    (first, 1),
                    xycoords=("data", "axes fraction"),
                    xytext=(3, -10),
                    textcoords="offset points",
                    fontsize=7,
                    color="grey",
                )
    axes[-1].set_xlabel("optimizer steps")
    figure.savefig(output, dpi=120)
