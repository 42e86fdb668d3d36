"""Metrics of several data loaders of one part, each apart, under the names that Lightning gives."""

from __future__ import annotations

import copy

from torch import nn
from torchmetrics import Metric

__all__ = ["loaders_of", "of_loader"]


def of_loader(metrics: nn.ModuleDict, part: str, loader: int) -> str:
    """Return the key of the metrics of a data loader; those of the first are those of the part.

    The others are empty copies, made when their loader begins: no checkpoint holds metrics.

    Args:
        metrics: The metrics of a module, by part.
        part: val or test.
        loader: The number of the loader, `dataloader_idx`.
    """
    if not loader:
        return part
    key = f"{part}_{loader}"
    if key not in metrics:
        made = copy.deepcopy(metrics[part])
        for one in made.modules():
            if isinstance(one, Metric):
                one.reset()
        metrics[key] = made
    return key


def loaders_of(metrics: nn.ModuleDict, part: str) -> list[str]:
    """Return the keys of the metrics of all data loaders that a part has had, in their order."""
    found = [part]
    while (key := f"{part}_{len(found)}") in metrics:
        found.append(key)
    return found
