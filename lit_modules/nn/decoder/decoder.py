"""The language model's network: a pre-LayerNorm transformer that predicts the next token."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import sparse_patterns as sp
from lit_modules.nn.decoder.attention import KeysValues, SelfAttention
from lit_modules.nn.decoder.block import Block
from lit_modules.nn.decoder.distances import DistanceBias
from lit_modules.nn.decoder.embeddings import LearnedPositions, Rotary, rotary_tables
from lit_modules.nn.patterns import PatternLike, causal, memory_lengths, resolve
from sparse_patterns.nn.documents import positions_in

__all__ = ["Decoder", "DecoderOutput"]

INIT_STD = 0.02
"""Standard deviation of fresh weights."""

FIRST_LOGIT_STD = 0.2
"""Standard deviation of the first logits; half of its square, 0.02 nats, adds to the first loss."""


class DecoderOutput(NamedTuple):
    """What the decoder returns.

    Attributes:
        logits: `(batch, length, vocabulary_size)`.
        memory: Keys and values of each layer for the next segment, None unless asked for.
    """

    logits: Tensor
    memory: tuple[KeysValues, ...] | None


class Decoder(nn.Module):
    """Predicts the next token at each position, without seeing later ones, whatever the pattern.

    Args:
        vocabulary_size: Number of token ids.
        layers: Number of layers.
        heads: Attention heads of a layer.
        width: Features of a token; a multiple of `heads`.
        feedforward_width: Features inside the feed-forward; four times `width` by default.
        pattern: What attends to what: a registered name, a config or a pattern.
        positions: `rotary`, `alibi` or `t5` (relative, any length), or `learned` (absolute, up to
            `max_length`). ALiBi is a fixed bias of the scores by distance, T5's a learned one.
        max_length: Tokens of the longest sequence, for learned positions.
        dropout: Share of embeddings and of each branch's output that is dropped in training.
        attention_dropout: Share of attention probabilities that is dropped in training.
        checkpointing: Keep only the input of each layer and compute the rest again in the backward
            pass.
        kernel: Kernel of `sparse_patterns.attention`.

    Raises:
        ValueError: A number is out of range or does not fit another one, or the pattern is unknown.
    """

    def __init__(
        self,
        vocabulary_size: int,
        *,
        layers: int,
        heads: int,
        width: int,
        pattern: PatternLike,
        feedforward_width: int | None = None,
        positions: Literal["rotary", "learned", "alibi", "t5"] = "rotary",
        max_length: int | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        checkpointing: bool = False,
        kernel: str = "auto",
    ) -> None:
        super().__init__()
        feedforward_width = 4 * width if feedforward_width is None else feedforward_width
        _check_sizes(
            vocabulary_size=vocabulary_size,
            layers=layers,
            heads=heads,
            width=width,
            feedforward_width=feedforward_width,
        )
        _check_positions(positions, max_length, width, heads)
        for name, share in (("dropout", dropout), ("attention_dropout", attention_dropout)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} must be in 0..1 (1 excluded), got {share}")
        self.heads, self.head_dim = heads, width // heads
        self.checkpointing = checkpointing
        self.base_pattern = self.pattern = causal(resolve(pattern))
        self.window_scale = 1.0
        self._memory_lengths: tuple[int, ...] | None = None
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.positions: LearnedPositions | None = None
        if positions == "learned":
            assert max_length is not None
            self.positions = LearnedPositions(max_length, width)
        self.distances = DistanceBias(positions, heads) if positions in ("alibi", "t5") else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList()
        for layer in range(layers):
            attention = SelfAttention(
                width,
                heads,
                self.pattern,
                layer=layer,
                layers=layers,
                dropout=attention_dropout,
                kernel=kernel,
            )
            self.blocks.append(Block(attention, width, feedforward_width, dropout))
        self.norm = nn.LayerNorm(width)
        # Counted here: a sharded parameter reports the size of its shard.
        self.matmul_weights = self.embedding.weight.numel() + sum(
            module.weight.numel() for module in self.modules() if isinstance(module, nn.Linear)
        )
        self.reset_parameters()

    def reset_parameters(self, modules: Iterable[nn.Module] | None = None) -> None:
        """Draw fresh weights, such that the first loss is the logarithm of the vocabulary.

        Args:
            modules: Those whose own weights are drawn, without their children; all by default.
        """
        wanted = set(self.modules() if modules is None else modules)
        for module in (module for module in self.modules() if module in wanted):
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, LearnedPositions) and modules is not None:
                # Its constructor has drawn already.
                module.reset_parameters()
        for block in self.blocks:
            assert isinstance(block, Block)
            # Each branch adds to the stream: the sum should not grow with the depth.
            for linear in (block.attention.project_out, block.feedforward.project_out):
                if linear in wanted:
                    nn.init.normal_(linear.weight, std=INIT_STD / math.sqrt(2 * len(self.blocks)))
        if self.norm in wanted:
            self._reset_norm()

    @torch.no_grad()
    def _reset_norm(self) -> None:
        # The embedding is tied, so a plain gain of one predicts each token to follow itself. With
        # alternating signs, the products of a token's own vector cancel, and any gain trains
        # equally well.
        weight = self.norm.weight
        gain = FIRST_LOGIT_STD / (INIT_STD * math.sqrt(weight.numel()))
        signs = torch.arange(weight.numel(), device=weight.device) % 2 * 2 - 1
        weight.copy_(signs * min(1.0, gain))

    def set_window_scale(self, factor: float) -> None:
        """Multiply both sides of every window of the original pattern by `factor`.

        Raises:
            ValueError: `factor` is not positive.
        """
        self.pattern = sp.scale_windows(self.base_pattern, factor)
        self.window_scale = factor
        self._memory_lengths = None
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attention.pattern = self.pattern

    def memory_lengths(self) -> tuple[int, ...]:
        """Return how many tokens before a segment each layer can see.

        Raises:
            ValueError: The pattern does not allow a memory, or positions are learned.
        """
        if self.positions is not None:
            raise ValueError(
                "memory needs positions='rotary': learned positions are the same in every segment"
            )
        if self._memory_lengths is None:
            self._memory_lengths = memory_lengths(
                self.pattern, heads=self.heads, layers=len(self.blocks)
            )
        return self._memory_lengths

    def make_caches(self) -> list[sp.KeyValueCache]:
        """Return an empty rolling cache for each layer."""
        layers = len(self.blocks)
        return [
            sp.KeyValueCache(self.pattern, heads=self.heads, layer=layer, layers=layers)
            for layer in range(layers)
        ]

    def forward(
        self,
        input_ids: Tensor,
        *,
        memory: Sequence[KeysValues] | None = None,
        memory_mask: Tensor | None = None,
        keep: Sequence[int] | None = None,
        segment_ids: Tensor | None = None,
        caches: Sequence[sp.KeyValueCache] | None = None,
        last_only: bool = False,
    ) -> DecoderOutput:
        """Predict the token after each position.

        Args:
            input_ids: int64 `(batch, length)`.
            memory: Keys and values of the segment before, from an earlier output.
            memory_mask: bool `(batch, longest memory)`, False for tokens of another stream.
            keep: Tokens of memory to return for each layer (see `memory_lengths`); None for no
                memory.
            segment_ids: int `(batch, length)`, for a pattern with `SameDocument()`; positions start
                over in each document, so that it has the numbers of a run of its own.
            caches: Rolling caches of each layer; the ids continue what the caches have seen.
            last_only: Return logits of the last position alone, `(batch, 1, vocabulary_size)`.
        """
        start = caches[0].position if caches else 0
        x = self.embedding(input_ids)
        rotary = self._rotary(input_ids, start, memory, x.dtype)
        if self.positions is not None:
            x = x + self._learned(self.positions, input_ids, start, segment_ids)
        bias = self._bias(x, start, memory)
        x = self.dropout(x)
        kept = []
        for layer, block in enumerate(self.blocks):
            given: dict[str, Any] = {
                "memory": memory[layer] if memory else None,
                "memory_mask": memory_mask,
                "segment_ids": segment_ids,
                "cache": caches[layer] if caches else None,
                "distance_bias": bias,
            }
            if self.checkpointing and self.training and torch.is_grad_enabled():
                x, pair = checkpoint(block, x, rotary, use_reentrant=False, **given)
            else:
                x, pair = block(x, rotary, **given)
            if keep is not None:
                kept.append(_tail(pair, keep[layer]))
        x = self.norm(x[:, -1:] if last_only else x)
        return DecoderOutput(F.linear(x, self.embedding.weight), tuple(kept) if kept else None)

    @staticmethod
    def _learned(
        positions: LearnedPositions, ids: Tensor, start: int, segment_ids: Tensor | None
    ) -> Tensor:
        """Return the vectors of all tokens, counted from the start of each document."""
        if segment_ids is None or not ids.shape[1]:
            return positions(start, ids.shape[1])
        places = positions_in(segment_ids)
        vectors: Tensor = positions(start, int(places.max()) + 1)
        return vectors[places]

    def _rotary(
        self, ids: Tensor, start: int, memory: Sequence[KeysValues] | None, dtype: torch.dtype
    ) -> Rotary | None:
        if self.positions is not None or self.distances is not None:
            return None
        longest = max(keys.shape[2] for keys, _ in memory) if memory else 0
        positions = torch.arange(start, start + longest + ids.shape[1], device=ids.device)
        return rotary_tables(positions, self.head_dim, dtype)

    def _bias(self, x: Tensor, start: int, memory: Sequence[KeysValues] | None) -> Tensor | None:
        """Return the bias of the scores by distance, None for other positions."""
        if self.distances is None:
            return None
        longest = max(keys.shape[2] for keys, _ in memory) if memory else 0
        bias: Tensor = self.distances(start + longest + x.shape[1], x)
        return bias


def _tail(pair: KeysValues, tokens: int) -> KeysValues:
    """Return the last tokens of keys and values, without gradient and in storage of their own."""
    keys, values = pair
    start = max(0, keys.shape[2] - tokens)
    return keys[:, :, start:].detach().clone(), values[:, :, start:].detach().clone()


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be an int >= 1, got {size!r}")
    if sizes["width"] % sizes["heads"]:
        raise ValueError(
            f"width must be a multiple of heads ({sizes['heads']}), got {sizes['width']}"
        )


def _check_positions(positions: str, max_length: int | None, width: int, heads: int) -> None:
    if positions not in ("rotary", "learned", "alibi", "t5"):
        raise ValueError(
            f"positions must be 'rotary', 'learned', 'alibi' or 't5', got {positions!r}"
        )
    if positions == "rotary" and width // heads % 2:
        raise ValueError(
            f"positions='rotary' needs an even head size (width / heads), got {width // heads}"
        )
    if positions == "learned" and (max_length is None or max_length < 1):
        raise ValueError(f"positions='learned' needs max_length >= 1, got {max_length}")
    if positions != "learned" and max_length is not None:
        raise ValueError(
            f"max_length is for positions='learned'; {positions} has no limit, got {max_length}"
        )
