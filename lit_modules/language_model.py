"""The language model as a LightningModule: loss, metrics, speed, segment memory, generation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

import sparse_patterns as sp
from lit_modules.generation import check_sampling, generate
from lit_modules.metrics.bits import bits_name
from lit_modules.metrics.throughput import training_flops
from lit_modules.nn.decoder.decoder import Decoder
from lit_modules.nn.patterns import resolve
from lit_modules.training.compilation import compile_once
from lit_modules.training.distributed import device_of_run, gather, is_sharded, leave_meta, place
from lit_modules.training.memories import Memories
from lit_modules.training.optimization import check_rates, configure_adamw
from lit_modules.training.scoring import (
    NOT_SCORED,
    Batch,
    ScoredModule,
    own_stretch,
    total_nats,
    units_scored,
)
from sparse_patterns.distributed.context.split import current_split, undivided

__all__ = ["LanguageModel"]


class LanguageModel(ScoredModule):
    """A causal language model on any sparse pattern.

    A batch is a dict with `input_ids` and `labels`, int64 `(batch, length)`; labels are already
    shifted, -100 where a token is not scored. Optional: `continues`, bool `(batch,)`, whether a row
    continues the row of the batch before (for `memory`); `restarts`, bool `(batch, length)`, True
    at the first token of a document, which with all after it sees nothing before it; `segment_ids`,
    int `(batch, length)`, for a pattern with `SameDocument()`; `units_scored`, int `(batch,)`, the
    bytes or characters of the scored tokens of a row, if not one per token.

    Args:
        vocabulary_size: Number of token ids.
        unit: What bits are counted per: byte, character or token.
        pattern: What attends to what: a registered name, or a config; later tokens are never seen.
        layers: Number of layers.
        heads: Attention heads of a layer.
        width: Features of a token; a multiple of `heads`.
        feedforward_width: Features inside the feed-forward; four times `width` by default.
        positions: rotary, transformer-xl, alibi or t5 (all relative, any length), or learned
            (absolute, up to `max_length`).
        max_length: Tokens of the longest sequence, for learned positions.
        norm: pre normalises what goes into each branch; post the stream after each branch, with
            embeddings scaled by the root of `width`, as in Transformer-XL.
        activation: Activation of the feed-forward, by its name: gelu, relu, silu, ...
        feedforward_biases: Whether the feed-forward has biases.
        dropout: Share of embeddings and of each branch's output that is dropped in training; with
            post-norm of the last layer's output, too.
        attention_dropout: Share of attention probabilities that is dropped in training.
        feedforward_dropout: Share of the features inside the feed-forward that is dropped in
            training.
        memory: Tokens before a segment whose hidden states it attends to, without gradient, as in
            Transformer-XL; 0 for none, true for as many as the pattern sees.
        eval_memory: The same in validation and test; None takes `memory`.
        memory_keys: Keep keys and values instead of hidden states in validation and test: the same
            numbers in less time and more room. Training always keeps hidden states.
        kernel: Attention kernel; auto takes the fastest by declared rates, tune by measurement.
        checkpointing: Compute the inside of each layer twice instead of keeping it: less memory,
            more time.
        compile: Compile the network with torch.compile.
        learning_rate: Peak learning rate; stages scale it and warm it up.
        weight_decay: Decoupled weight decay of matrices.
        betas: Decay of AdamW's running means of gradient and squared gradient.
        max_new: Tokens that predict adds to each prompt.
        temperature: Predict divides the logits by it; below 1 favours likely tokens.
        top_k: Predict chooses among this many most likely tokens.
        top_p: Predict chooses among the fewest tokens whose probabilities add up to this.
        greedy: Predict chooses the most likely token.
        sample_seed: Seed of predict's choices.

    Raises:
        ValueError: A number is out of range or the pattern is unknown.
    """

    from_data: ClassVar[tuple[str, ...]] = ("vocabulary_size", "unit")

    def __init__(
        self,
        vocabulary_size: int,
        unit: Literal["byte", "character", "token"] = "byte",
        pattern: str | dict[str, Any] | sp.Pattern = "longformer-causal",
        layers: int = 6,
        heads: int = 8,
        width: int = 256,
        feedforward_width: int | None = None,
        positions: Literal["rotary", "transformer-xl", "alibi", "t5", "learned"] = "rotary",
        max_length: int | None = None,
        norm: Literal["pre", "post"] = "pre",
        activation: str = "gelu",
        feedforward_biases: bool = False,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        feedforward_dropout: float = 0.0,
        memory: int | bool = 0,
        eval_memory: int | None = None,
        memory_keys: bool = False,
        kernel: str = "auto",
        checkpointing: bool = False,
        compile: bool = False,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
        max_new: int = 256,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        greedy: bool = False,
        sample_seed: int | None = 0,
    ) -> None:
        check_rates(learning_rate, weight_decay, betas)
        check_sampling(max_new, temperature, top_k, top_p)
        super().__init__({bits_name(unit): "units"})
        self.pattern = resolve(pattern)
        # Only plain data in a checkpoint, so that it loads without running code.
        self.save_hyperparameters(ignore=["pattern"])
        self.save_hyperparameters({"pattern": sp.to_config(self.pattern)})
        self.net = Decoder(
            vocabulary_size,
            layers=layers,
            heads=heads,
            width=width,
            pattern=self.pattern,
            feedforward_width=feedforward_width,
            positions=positions,
            max_length=max_length,
            norm=norm,
            activation=activation,
            feedforward_biases=feedforward_biases,
            dropout=dropout,
            attention_dropout=attention_dropout,
            feedforward_dropout=feedforward_dropout,
            checkpointing=checkpointing,
            kernel=kernel,
        )
        if isinstance(memory, bool):
            memory = self._whole_reach() if memory else 0
            self.save_hyperparameters({"memory": memory})
        self._memories = Memories(memory, eval_memory, keys=memory_keys)
        if self._memories.longest:
            self.net.memory_lengths(self._memories.longest)  # refuses patterns that allow none
        self.window_scale = 1.0

    # ---------------------------------------------------------------- the network

    @property
    def decoder(self) -> Decoder:
        """The network."""
        return self.net

    @property
    def backbone(self) -> nn.ModuleList:
        """The layers, which Lightning's `BackboneFinetuning` leaves as they are at first."""
        return self.net.blocks

    def configure_model(self) -> None:
        """Shard the network where the strategy has a device mesh, and compile it, both once.

        Weights made on the meta device get memory and fresh values, block by block.
        """
        device = device_of_run(self)
        place(self.net, self.net.blocks, mesh=self.device_mesh, device=device)
        leave_meta(self, device)
        if self.hparams["compile"]:
            compile_once(self.net)

    def set_window_scale(self, factor: float) -> None:
        """Make every window `factor` times as wide as in the original pattern.

        Raises:
            ValueError: `factor` is not positive.
        """
        self.net.set_window_scale(factor)
        self.window_scale = factor

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return logits `(batch, length, vocabulary_size)` for ids `(batch, length)`."""
        logits: Tensor = self.decoder(input_ids).logits
        return logits

    def generate(self, prompt_ids: Tensor, max_new: int, **sampling: Any) -> Iterator[Tensor]:
        """Continue a prompt token by token; see `lit_modules.generation.generate`.

        A model with memory sees as many tokens before each as it remembers in evaluation.
        """
        memory = self._memories.tokens("test") or None
        return generate(self.decoder, prompt_ids, max_new, memory=memory, **sampling)

    def why_not_split(self, training: bool) -> list[str]:
        """Return why the model cannot run where sequences are cut among processes.

        Args:
            training: Whether it is to be trained.
        """
        return [f"memory of earlier segments ({self._memories.longest} tokens)"] * (
            self._memories.longest > 0
        )

    def _whole_reach(self) -> int:
        reaches = self.net.reaches()
        limited = [reach for reach in reaches if reach is not None]
        if len(limited) < len(reaches):
            raise ValueError(
                "memory must be an int >= 0, in tokens, got True with a pattern without limit: "
                f"{self.pattern!r}"
            )
        return max(limited)

    # ---------------------------------------------------------------- steps

    def score(self, batch: Batch, part: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return the nats, scored tokens and units of a batch, each a sum."""
        self.check_ids(batch["input_ids"])
        given: dict[str, Any] = {"restarts": _restarts(batch)}
        if "segment_ids" in batch:
            given["segment_ids"] = batch["segment_ids"]
        given |= self._memories.recall(part, batch, self.decoder)
        out = self.decoder(batch["input_ids"], **given)
        self._memories.store(part, out.memory, batch)
        labels = own_stretch(batch["labels"])
        nats = total_nats(out.logits.flatten(0, 1), labels.flatten())
        tokens = (labels != NOT_SCORED).sum()
        return nats, tokens, units_scored(batch, tokens)

    def predict_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor | list[Tensor]:
        """Return prompts and what follows them, int64 `(batch, length + max_new)`.

        A row that is filled up, which has no labels at its end, is continued after its last token;
        with such rows it is a list of `(length + max_new,)`. Rows that only make the shares of
        processes equal, which the batch marks as `filler`, are left out. Of the processes that
        share sequences, each generates all of them, and the first returns them; the others return
        nothing.
        """
        split = current_split()
        with undivided():
            found = self._continued(batch, batch_idx)
        return found if split is None or not split.rank else []

    def _continued(self, batch: Batch, batch_idx: int) -> Tensor | list[Tensor]:
        h = self.hparams
        sampling = {name: h[name] for name in ("temperature", "top_k", "top_p", "greedy")}
        seed = None if h["sample_seed"] is None else h["sample_seed"] + batch_idx
        ids = batch["input_ids"]
        lengths = _lengths(batch)
        calls = len(set(lengths))
        if any(is_sharded(module) for module in self.modules()):
            # Each call gathers weights from all processes: all make as many calls.
            calls = max(gather(calls))
        rows: dict[int, Tensor] = {}
        for length in sorted(set(lengths)):
            mine = [row for row, own in enumerate(lengths) if own == length]
            prompt = ids[mine, :length]
            new = self.generate(prompt, h["max_new"], seed=seed, **sampling)
            rows |= zip(mine, torch.cat((prompt, *(t[:, None] for t in new)), dim=1), strict=True)
        for _ in range(calls - len(set(lengths))):
            list(self.generate(ids[:1, :1], h["max_new"], seed=seed, **sampling))
        filler = batch["filler"].tolist() if "filler" in batch else [False] * len(ids)
        kept = [row for row, empty in enumerate(filler) if not empty]
        found = [rows[row] for row in kept]
        whole = bool(kept) and {lengths[row] for row in kept} == {ids.shape[1]}
        return torch.stack(found) if whole else found

    def configure_optimizers(self) -> Any:
        """Return AdamW and the learning rate of the stages."""
        h = self.hparams
        return configure_adamw(
            self,
            learning_rate=h["learning_rate"],
            weight_decay=h["weight_decay"],
            betas=tuple(h["betas"]),
        )

    def training_flops_of(self, batch: Batch) -> int:
        """Return the floating-point operations of a training step that the model calls for."""
        net, ids = self.decoder, batch["input_ids"]
        memory = self._memories.tokens("train")
        # The second product of a score with Transformer-XL's positions is one more of queries with
        # keys, beside that with values.
        products = 1.5 if net.relative is not None else 1.0
        return training_flops(
            net.pattern,
            batch=ids.shape[0],
            length=ids.shape[1],
            layers=len(net.blocks),
            heads=net.heads,
            head_dim=int(net.head_dim * products),
            matmul_weights=net.matmul_weights,
            memory_lengths=net.memory_lengths(memory) if memory else None,
            memory_weights=2 * (net.heads * net.head_dim) ** 2,
        )

    # ---------------------------------------------------------------- memory and checkpoints

    def on_train_start(self) -> None:
        """Move a loaded memory to the device of the model."""
        self._memories.to(self.device)

    def on_validation_epoch_start(self) -> None:
        """Clear the memory of the validation part."""
        self._memories.reset("val")

    def on_test_epoch_start(self) -> None:
        """Clear the memory of the test part."""
        self._memories.reset("test")

    def begin_loader(self, part: str) -> None:
        """Clear the memory of a part, which is of another data loader."""
        self._memories.reset(part)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Record the memory at each optimizer step, from which a resumed run continues."""
        self._memories.note(self.trainer.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the scale of the windows and the memory of every process."""
        state: dict[str, Any] = {"window_scale": self.window_scale}
        if self._memories.tokens("train"):
            state["memory"] = self._memories.state_dict(self.trainer.global_step)
        checkpoint["language_model"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the scale of the windows and this process's memory."""
        state = checkpoint.get("language_model", {})
        self.set_window_scale(state.get("window_scale", 1.0))
        if self._memories.tokens("train"):
            self._memories.load_state_dict(state.get("memory", []), self.global_rank)


def _restarts(batch: Batch) -> Tensor | None:
    """Return where documents begin, None where no token of a row has something before that."""
    marks = batch.get("restarts")
    if marks is None:
        return None
    behind = marks[:, 1:].any()
    if "continues" in batch:
        behind = behind | (marks[:, 0] & batch["continues"]).any()
    return marks if bool(behind) else None


def _lengths(batch: Batch) -> list[int]:
    """Return how many tokens of each row lie before its padding, which has no labels."""
    length = batch["input_ids"].shape[1]
    if "labels" not in batch:
        return [length] * len(batch["input_ids"])
    scored = batch["labels"] != NOT_SCORED
    last = (scored * torch.arange(1, length + 1, device=scored.device)).amax(1)
    return [int(number) or length for number in last]
