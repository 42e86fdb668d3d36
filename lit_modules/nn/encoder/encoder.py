"""The encoder: BERT, RoBERTa or Longformer, with any pattern, by Hugging Face's parameter names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import sparse_patterns as sp
from lit_modules.nn.encoder.attention import EncoderSelfAttention, Masks
from lit_modules.nn.encoder.config import EncoderConfig
from lit_modules.nn.encoder.embeddings import Embeddings
from lit_modules.nn.encoder.global_rows import find
from lit_modules.nn.encoder.layer import EncoderLayer
from lit_modules.nn.encoder.maps import attention_map
from sparse_patterns.distributed.context.split import current_split

__all__ = ["Encoder", "EncoderConfig", "EncoderOutput"]

LONGEST_MAP = 2048
"""Tokens of the longest text whose attention maps are given: they hold all pairs."""


class EncoderOutput(NamedTuple):
    """What the encoder returns.

    Attributes:
        hidden: `(batch, length, width)`.
        pooled: `(batch, width)`, None without a pooler.
        hidden_states: Input of the first layer and output of each, None unless asked for.
    """

    hidden: Tensor
    pooled: Tensor | None
    hidden_states: tuple[Tensor, ...] | None = None


class _Layers(nn.Module):
    """Holds the layers under the name that checkpoints have."""

    def __init__(self, config: EncoderConfig, kernel: str) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            EncoderLayer(config, layer, kernel) for layer in range(config.layers)
        )


class _Pooler(nn.Module):
    """A layer on the first token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return `(batch, width)`."""
        out: Tensor = self.dense(hidden[:, 0]).tanh()
        return out


class Encoder(nn.Module):
    """Represents each token of a text, of any length up to the position table.

    The keys of the state dict are those of `BertModel`, `RobertaModel` and `LongformerModel` in
    `transformers`, and so are the numbers.

    Inside of `sp.distributed.split_over` it is given the whole batch on each process, embeds the
    stretch of this one, and returns the tokens of that; there is no pooled vector then.

    Args:
        config: Sizes and pattern.
        checkpointing: Keep only the input of each layer and compute the rest again in the backward
            pass.
        kernel: Kernel of `sparse_patterns.attention`.

    Attributes:
        report: What loading or lengthening did, where that made the encoder.
    """

    def __init__(
        self, config: EncoderConfig, *, checkpointing: bool = False, kernel: str = "auto"
    ) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = checkpointing
        self.report: Any = None
        self.embeddings = Embeddings(config)
        self.encoder = _Layers(config, kernel)
        self.pooler = _Pooler(config.width) if config.pooler else None
        self.reset_parameters()

    def reset_parameters(self, modules: Iterable[nn.Module] | None = None) -> None:
        """Draw fresh weights as BERT does; global projections become copies of the others.

        Args:
            modules: Those whose own weights are drawn, without their children; all by default.
        """
        wanted = set(self.modules() if modules is None else modules)
        for module in (module for module in self.modules() if module in wanted):
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=self.config.init_std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, nn.Embedding) and module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])
        for attention in self.attentions():
            if self.config.global_projections and attention.query_global in wanted:
                attention.copy_to_global_projections()

    def copy_to_global_projections(self) -> None:
        """Copy each layer's query, key and value to its global projections.

        Call it after training without global tokens, which never trains them.

        Raises:
            ValueError: There are no global projections.
        """
        for attention in self.attentions():
            attention.copy_to_global_projections()

    def attentions(self) -> Iterator[EncoderSelfAttention]:
        """Yield the self-attention of each layer."""
        for layer in self.encoder.layer:
            assert isinstance(layer, EncoderLayer)
            yield layer.attention.self

    def forward(
        self,
        input_ids: Tensor,
        key_mask: Tensor | None = None,
        global_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        *,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> EncoderOutput:
        """Encode a batch of texts.

        Args:
            input_ids: int `(batch, length)`.
            key_mask: bool `(batch, length)`, True for a real token; all of them if None.
            global_mask: bool `(batch, length)`, True for a global token, for a pattern with
                `BatchGlobal()`.
            segment_ids: int `(batch, length)`; tokens of different segments do not see each other,
                whatever the pattern is, and positions start over in each, so that it has the
                numbers of a run of its own.
            token_type_ids: int `(batch, length)`; 0 everywhere if None.
            position_ids: int `(batch, length)`, rows of the position table; by default as the
                architecture numbers them, from the ids.
            output_hidden_states: Also return the input of the first layer and the output of each.

        Raises:
            ValueError: An id is beyond its table, the text is longer than the position table, or a
                mask has another shape or is not read by the pattern.
            TypeError: An argument has another type.
        """
        self._check(
            input_ids,
            key_mask=key_mask,
            global_mask=global_mask,
            segment_ids=segment_ids,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
        )
        split = current_split()
        if split is not None:
            if position_ids is None:
                position_ids = self.embeddings.positions_of(input_ids, segment_ids)
                self.embeddings.check_length(position_ids)
            input_ids, position_ids = split.cut(input_ids), split.cut(position_ids)
            key_mask, global_mask, segment_ids, token_type_ids = (
                None if one is None else split.cut(one)
                for one in (key_mask, global_mask, segment_ids, token_type_ids)
            )
        x = self.embeddings(input_ids, token_type_ids, position_ids, segment_ids)
        # Looking for the global tokens waits for the device: once, not in every layer.
        look = self.config.global_projections and not torch.compiler.is_compiling()
        rows = find(global_mask, key_mask, x) if look and split is None else None
        masks = Masks(_unless_all(key_mask), global_mask, segment_ids, rows)
        states = [x]
        for layer in self.encoder.layer:
            if self.checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(layer, x, masks, use_reentrant=False)
            else:
                x = layer(x, masks)
            if output_hidden_states:
                states.append(x)
        pooled = None
        if self.pooler is not None and x.shape[1] and split is None:
            pooled = self.pooler(x)
        return EncoderOutput(x, pooled, tuple(states) if output_hidden_states else None)

    @torch.no_grad()
    def attention_maps(
        self, input_ids: Tensor, *, layers: range | None = None, **given: Any
    ) -> dict[int, Tensor]:
        """Return what each token attends to, for inspection: dense, without dropout.

        Args:
            input_ids: int `(batch, length)`.
            layers: Which layers; all if None.
            **given: Further arguments of `forward`.

        Returns:
            By layer, float `(batch, heads, length, length)`: rows of probabilities, zeros where
            nothing is seen.

        Raises:
            ValueError: The text has more than `LONGEST_MAP` tokens, or there is no such layer.
        """
        if input_ids.ndim == 2 and input_ids.shape[1] > LONGEST_MAP:
            raise ValueError(
                f"attention maps hold all pairs of tokens: at most {LONGEST_MAP} tokens, "
                f"got {input_ids.shape[1]}"
            )
        count = self.config.layers
        wanted = range(count) if layers is None else layers
        if any(not 0 <= layer < count for layer in wanted):
            raise ValueError(f"layers must be in 0..{count - 1}, got {wanted}")
        training = self.training
        self.eval()
        try:
            states = self(input_ids, **given, output_hidden_states=True).hidden_states
        finally:
            self.train(training)
        masks = Masks(*(given.get(name) for name in Masks._fields))
        attentions = list(self.attentions())
        return {layer: attention_map(attentions[layer], states[layer], masks) for layer in wanted}

    def _check(self, input_ids: Tensor, **given: Tensor | None) -> None:
        if not isinstance(input_ids, Tensor) or input_ids.is_floating_point():
            raise TypeError(f"input_ids must be an int tensor, got {_kind(input_ids)}")
        if input_ids.ndim != 2:
            raise ValueError(
                f"input_ids must have shape (batch, length), got {tuple(input_ids.shape)}"
            )
        for name, tensor in given.items():
            if tensor is None:
                continue
            mask = name.endswith("_mask")
            if (
                not isinstance(tensor, Tensor)
                or tensor.is_floating_point()
                or (tensor.dtype == torch.bool) != mask
            ):
                wanted = "a bool tensor (True = yes)" if mask else "an int tensor"
                raise TypeError(f"{name} must be {wanted}, got {_kind(tensor)}")
            if tensor.shape != input_ids.shape:
                raise ValueError(
                    f"{name} must have the shape of input_ids, (batch, length) = "
                    f"{tuple(input_ids.shape)}, got {tuple(tensor.shape)}"
                )
        reads = any(isinstance(atom, sp.BatchGlobal) for atom in self.config.spec.walk())
        if given["global_mask"] is not None and not reads:
            raise ValueError(
                "global_mask was given, but the pattern has no BatchGlobal() to read it: "
                f"{self.config.pattern!r}"
            )


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def _unless_all(mask: Tensor | None) -> Tensor | None:
    """Return the mask, None where it masks nothing: most kernels are faster without."""
    if mask is None or torch.compiler.is_compiling() or not bool(mask.all()):
        return mask
    return None
