"""What language models share, masked or not: loss, bits per unit, and speed, with exact sums."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from lit_modules.metrics.bits import BitsPerUnit, NatsPerToken
from lit_modules.metrics.exact import Metrics
from lit_modules.metrics.loaders import loaders_of, of_loader
from lit_modules.metrics.throughput import Speed, peak_memory
from lit_modules.nn.precision import sum_dtype, widened
from lit_modules.training.distributed import replicas, sum_over_processes, world_size
from lit_modules.training.finite import WatchedModule
from sparse_patterns.distributed.context.split import current_split

__all__ = [
    "NOT_SCORED",
    "Batch",
    "ScoredModule",
    "own_stretch",
    "total_nats",
    "units_scored",
]

NOT_SCORED = -100
"""Label of a token that is input only."""

Batch = dict[str, Tensor]


class ScoredModule(WatchedModule):
    """A model that is scored by the nats of single tokens.

    A subclass gives `score`, which returns sums over a batch, and `training_flops_of`. Gradients,
    logs and metrics are those of all processes together. Where sequences are cut among processes,
    each scores the tokens of its stretch, see `own_stretch`.

    Args:
        bits: Names of the bits that are logged beside `loss`, each with what they are counted per:
            the `units` of text in the scored tokens, or the `tokens` themselves.
    """

    splits_sequences: ClassVar[bool] = True

    def __init__(self, bits: dict[str, str]) -> None:
        super().__init__()
        self._bits = bits
        self.metrics = Metrics(
            {
                part: nn.ModuleDict(
                    {"loss": NatsPerToken(), **{name: BitsPerUnit() for name in bits}}
                )
                for part in ("val", "test")
            }
        )
        self._speed = Speed()
        self._checked = False

    @abstractmethod
    def score(self, batch: Batch, part: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return the nats, scored tokens and units of a batch, each a sum.

        Args:
            batch: A batch.
            part: train, val or test.
        """

    @abstractmethod
    def training_flops_of(self, batch: Batch) -> int:
        """Return the floating-point operations of a training step that the model calls for."""

    # ---------------------------------------------------------------- steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss, in nats per scored token, over the batches of all processes."""
        nats, tokens, units = self.score(batch, "train")
        sums = torch.stack((nats.detach(), tokens.to(nats.dtype), units.to(nats.dtype)))
        all_nats, all_tokens, all_units = sum_over_processes(sums)
        figures = {"train/loss": all_nats / all_tokens}
        for name, per in self._bits.items():
            count = all_units if per == "units" else all_tokens
            figures[f"train/{name}"] = all_nats / math.log(2) / count
        self.watch(all_nats, batch_idx)
        self.log_dict(figures, prog_bar=True, batch_size=len(batch["input_ids"]))
        # Gradients are averaged over processes: weighted by tokens, that is the mean over all of
        # them.
        loss = nats * world_size() / all_tokens.clamp(min=1)
        own = cast(torch.dtype, self.dtype)
        return loss.to(torch.promote_types(own, torch.float32))

    def begin_loader(self, part: str) -> None:
        """Begin another data loader of a part; a subclass forgets what it knows of the last one."""

    def _evaluate(self, batch: Batch, part: str, loader: int, first: bool) -> None:
        if loader and first:
            self.begin_loader(part)
        nats, tokens, units = self.score(batch, part)
        counts = {"loss": "tokens", **self._bits}
        own = of_loader(self.metrics, part, loader)
        metrics = cast(dict[str, NatsPerToken], dict(cast(nn.ModuleDict, self.metrics[own])))
        for name, metric in metrics.items():
            metric.update(nats, units if counts[name] == "units" else tokens)
            # With several loaders, Lightning adds their number to the name.
            self.log(
                f"{part}/{name}",
                metric,
                prog_bar=True,
                batch_size=len(batch["input_ids"]),
                metric_attribute=f"metrics.{own}.{name}",
            )

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to `val/loss` and the bits per unit, of each data loader apart."""
        self._evaluate(batch, "val", dataloader_idx, batch_idx == 0)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to `test/loss` and the bits per unit, of each data loader apart."""
        self._evaluate(batch, "test", dataloader_idx, batch_idx == 0)

    def on_validation_epoch_end(self) -> None:
        """Log the validation figures in a loop of Fabric; a trainer does that by itself."""
        self._log_alone("val")

    def on_test_epoch_end(self) -> None:
        """Log the test figures in a loop of Fabric; a trainer does that by itself."""
        self._log_alone("test")

    def _log_alone(self, part: str) -> None:
        if self._trainer is not None:
            return
        groups = [cast(nn.ModuleDict, self.metrics[key]) for key in loaders_of(self.metrics, part)]
        used = [
            {name: metric for name, metric in group.items() if cast(Metric, metric).update_count}
            for group in groups
        ]
        for loader, metrics in enumerate(used):
            for name, metric in metrics.items():
                assert isinstance(metric, NatsPerToken)
                several = f"/dataloader_idx_{loader}" if any(used[1:]) else ""
                self.log(f"{part}/{name}{several}", metric.compute())
                metric.reset()

    def check_ids(self, ids: Tensor) -> None:
        """Refuse ids outside the vocabulary; on a GPU, only in the first batch.

        Raises:
            ValueError: An id is none of the vocabulary.
        """
        if ids.numel() and (ids.device.type == "cpu" or not self._checked):
            self._checked = True
            low, high, size = int(ids.min()), int(ids.max()), self.hparams["vocabulary_size"]
            if low < 0 or high >= size:
                raise ValueError(
                    f"input_ids must be in 0..{size - 1} (vocabulary_size={size}), "
                    f"got {low}..{high}"
                )

    # ---------------------------------------------------------------- speed

    def on_train_epoch_start(self) -> None:
        """Start the clock."""
        self._speed.start()

    def on_validation_end(self) -> None:
        """Leave validation out of the speed of training."""
        super().on_validation_end()
        self._speed.start()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log the speed and the peak memory."""
        flops = self.training_flops_of(batch)
        batches = replicas(self)
        self._speed.stop(batch["input_ids"].numel() * batches, flops * batches)
        tokens_per_second, flops_per_second = self._speed.rates()
        self.log("train/tokens_per_second", tokens_per_second, prog_bar=True)
        self.log("train/flops_per_second", flops_per_second)
        self.log("train/peak_memory_mib", peak_memory(self.device) / 2**20)


def total_nats(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the summed cross-entropy, in nats, of `(tokens, vocabulary)` against `(tokens,)`.

    Labels of `NOT_SCORED` do not count.
    """
    nats = F.cross_entropy(widened(logits), labels, ignore_index=NOT_SCORED, reduction="none")
    return nats.sum(dtype=sum_dtype(nats.device))


def units_scored(batch: Batch, tokens: Tensor) -> Tensor:
    """Return the units of text in the scored tokens of a batch: one per token by default.

    They are known for whole rows, which the first of the processes counts that share a row.
    """
    if "units_scored" not in batch:
        return tokens
    units = batch["units_scored"].sum()
    split = current_split()
    return units if split is None or not split.rank else torch.zeros_like(units)


def own_stretch(tensor: Tensor) -> Tensor:
    """Return the tokens of `(batch, length)` that this process scores: all, or its stretch."""
    split = current_split()
    return tensor if split is None else split.cut(tensor)
