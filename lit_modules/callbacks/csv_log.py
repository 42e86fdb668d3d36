"""The log of a run: one CSV file that a resumed run continues instead of starting over."""

from __future__ import annotations

import csv
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from sparse_patterns.config.files import whole_file

__all__ = ["CSVLog", "read_log"]


class CSVLog(Logger):
    """Writes metrics to `metrics.csv`, one row per call; a new metric adds a column.

    Lightning's own logger deletes what an earlier process wrote. Here rows that a killed run wrote
    after its last checkpoint are dropped when the resumed run reaches the same step, so that every
    step is in the file once.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.file = self.folder / "metrics.csv"
        self._columns: list[str] = ["step"]
        self._opened = False

    @property
    def name(self) -> str:
        """Return the name of the run."""
        return self.folder.name

    @property
    def version(self) -> str:
        """Return nothing: a run folder has no versions."""
        return ""

    @property
    def log_dir(self) -> str:
        """Return the run folder."""
        return str(self.folder)

    @property
    def save_dir(self) -> str:
        """Return the run folder."""
        return str(self.folder)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Write nothing: the configuration is a file of its own in the run folder."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one row.

        Args:
            metrics: The numbers by name.
            step: Optimizer steps done.
        """
        row = {"step": step or 0, **{k: float(v) for k, v in metrics.items()}}
        if not self._opened:
            self._open(int(step or 0))
        unseen = [name for name in row if name not in self._columns]
        if unseen:
            self._rewrite(read_log(self.file), [*self._columns, *unseen])
        with open(self.file, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)

    def _open(self, step: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = [row for row in read_log(self.file) if row["step"] < step]
        columns = list(dict.fromkeys(["step", *(name for row in rows for name in row)]))
        self._rewrite(rows, columns)
        self._opened = True

    def _rewrite(self, rows: list[dict[str, float]], columns: list[str]) -> None:
        with whole_file(self.file) as part, open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            for row in rows:
                writer.writerow({**row, "step": int(row["step"])})
        self._columns = columns


def read_log(file: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Return the rows of a log, each with the numbers it has; [] where there is no file.

    A last row that a killed process left unfinished is dropped.
    """
    path = Path(file)
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    # A number that was cut short may look like another number, so an unfinished line is dropped.
    rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
    numbers = []
    for row in rows:
        try:
            read = {k: float(v) for k, v in row.items() if k is not None and v not in ("", None)}
        except (TypeError, ValueError):
            continue
        if "step" in read:
            numbers.append(read)
    return numbers
