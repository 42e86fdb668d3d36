"""The masked language model as a LightningModule: lengthened, trained further, saved for tasks."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from lit_modules.metrics.bits import bits_name
from lit_modules.metrics.throughput import training_flops
from lit_modules.nn.encoder.encoder import Encoder
from lit_modules.nn.encoder.masked_lm import MaskedLM
from lit_modules.pretrained.absent import EncoderModule
from lit_modules.pretrained.backbone import SCRATCH, EncoderSettings, reads_global_mask
from lit_modules.pretrained.masked_lm import build_masked_lm
from lit_modules.training.compilation import compile_once
from lit_modules.training.distributed import device_of_run, leave_meta, place
from lit_modules.training.optimization import check_rates, configure_adamw
from lit_modules.training.scoring import (
    NOT_SCORED,
    Batch,
    ScoredModule,
    own_stretch,
    total_nats,
    units_scored,
)
from sparse_patterns.distributed.context.split import current_split

__all__ = ["MaskedLanguageModel"]

_GLOBAL = ("query", "key", "value")


class MaskedLanguageModel(EncoderModule, ScoredModule):
    """A masked language model on any encoder: fresh, pretrained, or pretrained and made long.

    A batch is a dict with `input_ids` and `labels`, int64 `(batch, length)`; a label is the
    original id where a token is scored, and -100 elsewhere. Optional: `key_mask`, bool, True for
    real tokens; `global_mask`, bool; `segment_ids`, int, within which tokens see each other;
    `units_scored`, int `(batch,)`, the characters of the scored tokens of a row.

    Logged are `loss` in nats per scored token, `bpc` in bits per character of these tokens
    (by another unit of the data set: bpb), and `bpt` in bits per scored token. The last is what
    the paper and its authors' code call BPC.

    Args:
        vocabulary_size: Number of token ids.
        pad_id: Id of padding.
        unit: What a text is measured in: byte, character or token.
        encoder: Which encoder, and what is changed about it. The head comes from the same weights
            where they have one.
        global_projections: refreshed: made copies of the local projections in every checkpoint and
            at the end, for text without global tokens never trains them; trained: for text with
            global tokens.
        learning_rate: Peak learning rate; stages scale it, warm it up and let it fall.
        weight_decay: Decoupled weight decay of matrices.
        betas: Decay of AdamW's running means of gradient and squared gradient.
        eps: Added to the root of AdamW's squared gradient.
        compile: Compile the network with torch.compile.

    Raises:
        ValueError: A number is out of range, or a value is none of those allowed.
    """

    from_data: ClassVar[tuple[str, ...]] = ("vocabulary_size", "pad_id", "unit")

    def __init__(
        self,
        vocabulary_size: int,
        pad_id: int = 1,
        unit: Literal["byte", "character", "token"] = "character",
        encoder: EncoderSettings = SCRATCH,
        global_projections: Literal["refreshed", "trained"] = "refreshed",
        learning_rate: float = 3e-5,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        compile: bool = False,
    ) -> None:
        check_rates(learning_rate, weight_decay, betas)
        super().__init__({bits_name(unit): "units", bits_name("token"): "tokens"})
        if global_projections not in ("refreshed", "trained"):
            raise ValueError(
                f"global_projections must be refreshed or trained, got {global_projections!r}"
            )
        self.settings = EncoderSettings.of(encoder)
        # Only plain data in a checkpoint, so that it loads without running code.
        self.save_hyperparameters(ignore=["encoder"])
        self.save_hyperparameters({"encoder": self.settings.plain()})
        self.net: MaskedLM | None = None
        if not self.settings.absent:
            self.build()

    # ---------------------------------------------------------------- the network

    @property
    def waits(self) -> bool:
        """Whether the module has no network yet."""
        return self.net is None

    @property
    def network(self) -> MaskedLM:
        """Encoder and head.

        Raises:
            FileNotFoundError: The pretrained weights are gone, and no checkpoint was loaded.
        """
        self.check_built()
        assert self.net is not None
        return self.net

    @property
    def encoder(self) -> Encoder:
        """The encoder alone.

        Raises:
            FileNotFoundError: As for `network`.
        """
        return self.network.encoder

    @property
    def backbone(self) -> Encoder:
        """The encoder, under the name by which Lightning's `BackboneFinetuning` looks for it."""
        return self.encoder

    def configure_model(self) -> None:
        """Shard the network where the strategy has a device mesh, and compile it, both once.

        Weights made on the meta device get memory and fresh values, layer by layer.
        """
        # Where the pretrained weights are gone, a checkpoint may still bring all that is needed.
        if self.net is None:
            return
        layers = self.net.encoder.encoder.layer
        device = device_of_run(self)
        place(self.net, layers, mesh=self.device_mesh, device=device)
        leave_meta(self, device)
        if self.hparams["compile"]:
            compile_once(self.net)

    def build(self) -> None:
        """Make encoder and head by the settings, and note in these what was built."""
        h = self.hparams
        with self.where():
            net = build_masked_lm(
                self.settings, vocabulary_size=h["vocabulary_size"], pad_id=h["pad_id"]
            )
        if self.settings.architecture is None and self.settings.path is not None:
            rank_zero_only(print)(net.encoder.report)
        self.settings = self.settings.built(net.encoder)
        self.hparams["encoder"] = self.settings.plain()
        if net.encoder.pooler is not None:
            # The pooler reads one token and is not part of this model: its weights do not change.
            net.encoder.pooler.requires_grad_(False)
        if net.encoder.config.global_projections and h["global_projections"] == "refreshed":
            for attention in net.encoder.attentions():
                for name in _GLOBAL:
                    attention.get_submodule(f"{name}_global").requires_grad_(False)
        self.net = net

    def forward(self, input_ids: Tensor, **given: Tensor) -> Tensor:
        """Return logits `(batch, length, vocabulary_size)`; `given` as in `MaskedLM.forward`."""
        logits: Tensor = self.network(input_ids, **given)
        return logits

    # ---------------------------------------------------------------- steps

    def score(self, batch: Batch, part: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return the nats, scored tokens and units of a batch, each a sum."""
        self.check_ids(batch["input_ids"])
        labels = own_stretch(batch["labels"])
        scored = labels != NOT_SCORED
        names = ("key_mask", "segment_ids")
        given = {name: batch[name] for name in names if name in batch}
        if "global_mask" in batch:
            self._check_marks(batch["global_mask"], part)
            if reads_global_mask(self.network.encoder):
                given["global_mask"] = batch["global_mask"]
        logits = self.network(batch["input_ids"], scored=scored, **given)
        tokens = scored.sum()
        return total_nats(logits, labels[scored]), tokens, units_scored(batch, tokens)

    def _check_marks(self, marks: Tensor, part: str) -> None:
        refreshed = self.hparams["global_projections"] == "refreshed"
        if part == "train" and refreshed and self.network.encoder.config.global_projections:
            if bool(marks.any()):
                raise ValueError(
                    "the data set marks global tokens, whose projections would be overwritten: "
                    "set the model's global_projections to trained"
                )

    def predict_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> list[dict[str, Any]]:
        """Return for each row the scored positions, the original ids, and the most likely ids.

        Of the processes that share sequences, the first returns them.
        """
        split = current_split()
        labels = own_stretch(batch["labels"])
        scored = labels != NOT_SCORED
        names = ("key_mask", "segment_ids")
        given = {name: batch[name] for name in names if name in batch}
        logits = self.network(batch["input_ids"], scored=scored, **given)
        likeliest = torch.zeros_like(labels)
        likeliest[scored] = logits.argmax(-1)
        if split is not None:
            likeliest = split.gather(likeliest, batch["labels"].shape[1])
            if split.rank:
                return []
            scored = batch["labels"] != NOT_SCORED
        return [
            {
                "places": row.nonzero()[:, 0].tolist(),
                "words": batch["labels"][index][row].tolist(),
                "likeliest": likeliest[index][row].tolist(),
            }
            for index, row in enumerate(scored)
        ]

    def configure_optimizers(self) -> Any:
        """Return AdamW and the learning rate of the stages.

        Raises:
            FileNotFoundError: There is nothing at the path of the pretrained weights.
        """
        self.check_built()
        h = self.hparams
        return configure_adamw(
            self,
            learning_rate=h["learning_rate"],
            weight_decay=h["weight_decay"],
            betas=tuple(h["betas"]),
            eps=h["eps"],
        )

    def training_flops_of(self, batch: Batch) -> int:
        """Return the floating-point operations of a training step that the model calls for.

        The head counts for the scored tokens alone. Attention counts as if no row held several
        documents.
        """
        net, ids = self.network, batch["input_ids"]
        config = net.encoder.config
        weights = sum(
            module.weight.numel()
            for name, module in net.encoder.encoder.named_modules()
            if isinstance(module, nn.Linear) and "_global" not in name
        )
        body = training_flops(
            config.spec,
            batch=ids.shape[0],
            length=ids.shape[1],
            layers=config.layers,
            heads=config.heads,
            head_dim=config.width // config.heads,
            matmul_weights=weights,
        )
        head = config.width * (config.width + config.vocabulary_size)
        return body + 6 * head * int((batch["labels"] != NOT_SCORED).sum())

    # ---------------------------------------------------------------- checkpoints

    @property
    def _refreshes(self) -> bool:
        refreshed = self.hparams["global_projections"] == "refreshed"
        return refreshed and self.network.encoder.config.global_projections

    def on_train_end(self) -> None:
        """Copy the local projections to the global ones, which were not trained."""
        if self._refreshes:
            self.network.encoder.copy_to_global_projections()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save global projections as they will be at the end."""
        if self._refreshes:
            state = checkpoint["state_dict"]
            for key in [key for key in state if "_global." in key]:
                local = key.replace("_global.", ".")
                # Not there where an adapter is around a projection: its own weight is then frozen.
                if local in state:
                    state[key] = state[local].clone()
