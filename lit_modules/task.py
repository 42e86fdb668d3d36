"""What the task models share: the encoder below, training, metrics, predictions, checkpoints."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, cast

import torch
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torchmetrics import Metric

import sparse_patterns as sp
from lit_modules.metrics.exact import (
    ExactMean,
    Metrics,
    in_real_memory,
    leave_inference_mode,
)
from lit_modules.metrics.loaders import loaders_of, of_loader
from lit_modules.nn.encoder.encoder import Encoder
from lit_modules.nn.heads import draw
from lit_modules.nn.precision import sum_dtype, wide_default, widened
from lit_modules.pretrained.absent import EncoderModule
from lit_modules.pretrained.backbone import (
    SCRATCH,
    EncoderSettings,
    build_encoder,
    reads_global_mask,
)
from lit_modules.pretrained.heads import load_head
from lit_modules.training.completion import Completed
from lit_modules.training.distributed import (
    device_of_run,
    leave_meta,
    place,
    place_head,
    sum_over_processes,
    world_size,
)
from lit_modules.training.finite import WatchedModule
from lit_modules.training.optimization import check_rates, configure_adamw, put_on_step
from lit_modules.training.schedule import Decay, check_schedule, schedule
from sparse_patterns.distributed.context.split import current_split

__all__ = ["Batch", "TaskModule"]

Batch = Mapping[str, Any]
"""A batch of a task: see `datamodules.language_model.batch`."""


class TaskModule(EncoderModule, WatchedModule, metaclass=Completed):
    """A head on the encoder. A task of your own is a subclass with six methods.

    `build_head` makes the layers, `head` turns the encoder's tokens into scores, `losses`
    compares them with the labels, `decode` makes predictions, `build_metrics` and `update_metrics`
    measure them. The rest is here. The encoder is made by `TaskModule.__init__`, the head right
    after the `__init__` of the subclass, whose attributes `build_head` may therefore read.

    A batch is a dict with `input_ids`, `key_mask`, `global_mask` (each `(rows, length)`), `example`
    (which example a row belongs to; a long example is several rows, all in one batch), `ids` (one
    for each example), and what the task adds. One with `filler` only makes
    the number of batches equal in all processes; it is neither scored nor predicted.

    Args:
        vocabulary_size: Number of token ids.
        pad_id: Id of padding.
        encoder: Which encoder: pretrained or fresh, its pattern and its length.
        pretrained_head: Load the head, too, from the weights at `encoder.path`.
        learning_rate: Peak learning rate.
        head_learning_rate: That of the head; `learning_rate` if not given.
        weight_decay: Decoupled weight decay of matrices.
        betas: Decay of AdamW's running means of gradient and squared gradient.
        warmup: Optimizer steps over which the learning rate rises; below 1, the share of the run.
            Stages, where the run has some, decide instead.
        decay: How the learning rate falls to zero until the end of the run: none, linear or
            cosine. Stages decide instead.

    Raises:
        ValueError: A number is out of range, or a value is none of those allowed.

    Attributes:
        from_data: Arguments that the command line takes from the data set's attributes.
        monitor: The validation metric by which the best weights are chosen.
        monitor_mode: Whether the best is the "min" or the "max".
    """

    from_data: ClassVar[tuple[str, ...]] = ("vocabulary_size", "pad_id")
    splits_sequences: ClassVar[bool] = True
    monitor: ClassVar[str] = "val/loss"
    monitor_mode: ClassVar[str] = "min"

    def __init__(
        self,
        vocabulary_size: int,
        pad_id: int = 1,
        encoder: EncoderSettings = SCRATCH,
        pretrained_head: bool = False,
        learning_rate: float = 3e-5,
        head_learning_rate: float | None = None,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        warmup: float = 0.1,
        decay: Decay = "linear",
    ) -> None:
        check_rates(learning_rate, weight_decay, betas, head_learning_rate=head_learning_rate)
        check_schedule(warmup, decay)
        super().__init__()
        self.settings = EncoderSettings.of(encoder)
        if pretrained_head and self.settings.path is None:
            raise ValueError("pretrained_head needs the path of weights in encoder.path, got none")
        # Only plain data in a checkpoint, so that it loads without running code.
        self.save_hyperparameters(ignore=["encoder"])
        self.save_hyperparameters({"encoder": self.settings.plain(), "betas": list(betas)})
        self.metrics = Metrics()
        self._heads: list[str] = []
        self._warned = False
        self.encoder: Encoder = None  # type: ignore[assignment]
        if not self.settings.absent:
            self._build_encoder()

    # ---------------------------------------------------------------- what a task fills in

    @abstractmethod
    def build_head(self, width: int, dropout: float) -> None:
        """Make the layers of the head as attributes.

        Args:
            width: Features of the encoder's tokens.
            dropout: The encoder's dropout.
        """

    @abstractmethod
    def head(self, hidden: Tensor, batch: Batch) -> Any:
        """Return the scores of a batch from the encoder's tokens `(rows, length, width)`."""

    @abstractmethod
    def losses(self, scores: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of each example `(examples,)`, and which count, bool `(examples,)`."""

    @abstractmethod
    def decode(self, scores: Any, batch: Batch) -> list[dict[str, Any]]:
        """Return one prediction for each example: plain data, with at least `id`."""

    @abstractmethod
    def build_metrics(self) -> dict[str, Metric]:
        """Return fresh metrics by name; one whose `compute` gives a dict has a name for each."""

    @abstractmethod
    def update_metrics(
        self,
        metrics: dict[str, Metric],
        scores: Any,
        predictions: list[dict[str, Any]],
        batch: Batch,
    ) -> None:
        """Add a batch to the metrics."""

    # ---------------------------------------------------------------- the network

    @property
    def waits(self) -> bool:
        """Whether the module has no network yet."""
        return self.encoder is None

    @property
    def backbone(self) -> Encoder:
        """The encoder, under the name by which Lightning's `BackboneFinetuning` looks for it."""
        self.check_built()
        return self.encoder

    def complete(self) -> None:
        """Make the head and the metrics; called once the `__init__` of a subclass has returned."""
        if not self.waits:
            self._build_rest()

    def build(self) -> None:
        """Make encoder, head and metrics by the settings."""
        self._build_encoder()
        self._build_rest()

    def _build_encoder(self) -> None:
        h = self.hparams
        with self.where():
            encoder = build_encoder(
                self.settings, vocabulary_size=h["vocabulary_size"], pad_id=h["pad_id"]
            )
        if encoder.pooler is not None:
            # Heads read tokens. Parameters without gradient stop training on several processes.
            encoder.pooler = None
            encoder.config = encoder.config.replace(pooler=False)
        self.encoder = encoder

    def _build_rest(self) -> None:
        config, before = self.encoder.config, set(self._modules)
        with self.where():
            self.build_head(config.width, config.dropout)
            self._heads = [name for name in self._modules if name not in before]
            for name in self._heads:
                self.draw_head(self.get_submodule(name).train(self.training), config.init_std)
        if self.hparams["pretrained_head"] and self.settings.architecture is None:
            loaded = load_head(self, self._heads, str(self.settings.path))
            rank_zero_only(print)(f"head       {len(loaded)} tensors from {self.settings.path}")
        for part in ("val", "test"):
            with in_real_memory(), wide_default():
                metrics = {"loss": ExactMean(), **self.build_metrics()}
            self.metrics[part] = nn.ModuleDict(metrics)
        if self.settings.architecture is None and self.settings.path is not None:
            rank_zero_only(print)(self.encoder.report)
        self.settings = self.settings.built(self.encoder)

    def configure_model(self) -> None:
        """Shard encoder and head where the strategy has a device mesh, once.

        Weights made on the meta device get memory and fresh values, layer by layer.
        """
        # Where the pretrained weights are gone, a checkpoint may still bring all that is needed.
        if self.waits:
            return
        device, mesh = device_of_run(self), self.device_mesh
        place(self.encoder, self.encoder.encoder.layer, mesh=mesh, device=device)
        draw = partial(self.draw_head, std=self.encoder.config.init_std)
        for name in self._heads:
            place_head(self.get_submodule(name), draw, mesh=mesh, device=device)
        leave_meta(self, device)

    def draw_head(self, module: nn.Module, std: float) -> None:
        """Draw the fresh weights of a part of the head; as BERT does, unless a task overrides."""
        draw(module, std)

    def encode(self, batch: Batch) -> Tensor:
        """Return the encoder's tokens `(rows, length, width)`.

        Global marks are used by a pattern that reads them, and ignored with any other. Where
        sequences are cut among processes, each encodes its stretch, and all are given the tokens of
        all: heads see whole rows.
        """
        self.check_built()
        marks = batch.get("global_mask")
        if marks is not None and not reads_global_mask(self.encoder):
            if not self._warned and self.encoder.config.spec != sp.Full() and bool(marks.any()):
                self._warned = True
                rank_zero_warn(
                    "the data set marks global tokens, but the pattern has no BatchGlobal() to "
                    f"read them: {self.encoder.config.pattern!r}"
                )
            marks = None
        ids = batch["input_ids"]
        out: Tensor = self.encoder(ids, batch.get("key_mask"), marks).hidden
        split = current_split()
        return out if split is None else split.gather(out, ids.shape[1])

    def forward(self, batch: Batch) -> Any:
        """Return the scores of a batch."""
        return self.head(self.encode(batch), batch)

    # ---------------------------------------------------------------- steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of the examples of all processes, in nats."""
        scores = self._scores(batch)
        with wide_default():
            losses, counts = self.losses(scores, batch)
        total = losses[counts].sum()
        exact = sum_dtype(total.device)
        sums = sum_over_processes(torch.stack((total.detach().to(exact), counts.sum().to(exact))))
        every = sums[1].clamp(min=1)
        self.watch(sums[0], batch_idx)
        self.log("train/loss", sums[0] / every, prog_bar=True, batch_size=len(batch["ids"]))
        # Gradients are averaged over processes: weighted by examples, that is the mean over all.
        loss: Tensor = total * world_size() / every.to(total.dtype)
        return loss

    def _scores(self, batch: Batch) -> Any:
        """Return the scores of a batch, float32 at least, so that losses are not rounded."""
        return tree_map_only(
            Tensor, lambda t: widened(t) if t.is_floating_point() else t, self(batch)
        )

    def _metrics(self, key: str) -> dict[str, Metric]:
        return cast(dict[str, Metric], dict(cast(nn.ModuleDict, self.metrics[key]).items()))

    def _evaluate(self, batch: Batch, part: str, loader: int) -> None:
        scores = self._scores(batch)
        metrics = self._metrics(of_loader(self.metrics, part, loader))
        if batch.get("filler") or _is_repeated():
            return
        leave_inference_mode(self.metrics)
        with wide_default():
            losses, counts = self.losses(scores, batch)
            metrics.pop("loss").update(losses[counts])
            self.update_metrics(metrics, scores, self.decode(scores, batch), batch)

    def _log_metrics(self, part: str) -> None:
        figures: list[dict[str, Any]] = []
        for key in loaders_of(self.metrics, part):
            found: dict[str, Any] = {}
            for name, metric in self._metrics(key).items():
                updates = torch.tensor(metric.update_count, device=self.device)
                if sum_over_processes(updates) == 0:
                    continue
                with wide_default():
                    value = metric.compute()
                found |= value if isinstance(value, dict) else {name: value}
                metric.reset()
            figures.append(found)
        several = any(figures[1:])
        for loader, found in enumerate(figures):
            for key, figure in found.items():
                # Every process has the figure of all: the largest of equal ones is that figure.
                self.log(
                    f"{part}/{key}/dataloader_idx_{loader}" if several else f"{part}/{key}",
                    widened(torch.as_tensor(figure)),
                    prog_bar=True,
                    sync_dist=True,
                    reduce_fx="max",
                    add_dataloader_idx=False,
                )

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the validation metrics, of each data loader apart."""
        self._evaluate(batch, "val", dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the test metrics, of each data loader apart."""
        self._evaluate(batch, "test", dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics over all processes."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics over all processes."""
        self._log_metrics("test")

    def predict_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> list[dict[str, Any]]:
        """Return one prediction for each example: plain data, with at least `id`."""
        scores = self._scores(batch)
        return [] if batch.get("filler") or _is_repeated() else self.decode(scores, batch)

    # ---------------------------------------------------------------- optimizer and checkpoints

    def configure_optimizers(self) -> Any:
        """Return AdamW, with the rates of encoder and head.

        Raises:
            FileNotFoundError: There is nothing at the path of the pretrained weights.
        """
        self.check_built()
        h = self.hparams
        head = h["head_learning_rate"]
        return configure_adamw(
            self,
            learning_rate=h["learning_rate"],
            weight_decay=h["weight_decay"],
            betas=tuple(h["betas"]),
            rates={} if head is None else dict.fromkeys(self._heads, head),
            factor=schedule(self, h["warmup"], h["decay"]),
        )

    def on_train_start(self) -> None:
        """Set the learning rate, now that the batches of an epoch are counted."""
        put_on_step(self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the encoder's architecture, so that the checkpoint is enough to build it."""
        checkpoint["hyper_parameters"]["encoder"] = self.settings.plain()


def _is_repeated() -> bool:
    """Return whether another of the processes that share sequences counts the examples."""
    split = current_split()
    return split is not None and split.rank > 0
