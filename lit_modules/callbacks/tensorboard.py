"""The TensorBoard log of a run, whose folder is made when something is written to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

__all__ = ["LateTensorBoard"]


class LateTensorBoard(TensorBoardLogger):
    """Lightning's logger, except that its writer makes the folder at its first use.

    Lightning asks for the writer before data, model and strategy are set up: a run that one of them
    refuses would leave a folder behind.
    """

    @property
    def experiment(self) -> Any:
        """Return the writer of TensorBoard."""
        if self._experiment is not None:
            return self._experiment
        return _AtFirstUse(lambda: super(LateTensorBoard, self).experiment)


class _AtFirstUse:
    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __getattr__(self, name: str) -> Any:
        return getattr(self._make(), name)
