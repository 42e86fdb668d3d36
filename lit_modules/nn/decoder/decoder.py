"""The language model's network: a causal transformer that predicts the next token."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import sparse_patterns as sp
from lit_modules.nn.decoder.arguments import (
    check_choices,
    check_positions,
    check_shares,
    check_sizes,
)
from lit_modules.nn.decoder.attention import Positions, SelfAttention
from lit_modules.nn.decoder.block import Block, FeedForward
from lit_modules.nn.decoder.distances import DistanceBias
from lit_modules.nn.decoder.embeddings import LearnedPositions
from lit_modules.nn.decoder.memory import LayerMemory, last_tokens, seen_of, tokens_of
from lit_modules.nn.decoder.positions import learned, relative_of_layers, rotary_of_layers
from lit_modules.nn.decoder.relative import RelativeBiases
from lit_modules.nn.patterns import (
    PatternLike,
    causal,
    check_distances,
    check_marks,
    reaches,
    resolve,
)
from sparse_patterns.distributed.context.split import current_split, refuse_in_split

__all__ = ["Decoder", "DecoderOutput"]

INIT_STD = 0.02
"""Standard deviation of fresh weights."""

FIRST_LOGIT_STD = 0.2
"""Standard deviation of the first logits; half of its square, 0.02 nats, adds to the first loss."""


class DecoderOutput(NamedTuple):
    """What the decoder returns.

    Attributes:
        logits: `(batch, length, vocabulary_size)`.
        memory: What each layer keeps for the next segment, without gradient; None unless asked
            for.
    """

    logits: Tensor
    memory: tuple[LayerMemory, ...] | None


class Decoder(nn.Module):
    """Predicts the next token at each position, without seeing later ones, whatever the pattern.

    Inside of `sp.distributed.split_over` it is given the whole batch on each process, embeds the
    stretch of this one, and returns the logits of that.

    Args:
        vocabulary_size: Number of token ids.
        layers: Number of layers.
        heads: Attention heads of a layer.
        width: Features of a token; a multiple of `heads`.
        feedforward_width: Features inside the feed-forward; four times `width` by default.
        pattern: What attends to what: a registered name, a config or a pattern.
        positions: `rotary`, `transformer-xl`, `alibi` or `t5` (all relative, of any length), or
            `learned` (absolute, up to `max_length`). ALiBi is a fixed bias of the scores by
            distance, T5's a learned one.
        max_length: Tokens of the longest sequence, for learned positions.
        norm: `pre` normalises what goes into each branch; `post` the stream after each branch, with
            embeddings scaled by the root of `width`, as in Transformer-XL.
        activation: Activation of the feed-forward: gelu, relu, ...
        feedforward_biases: Whether the feed-forward has biases.
        dropout: Share of embeddings and of each branch's output that is dropped in training; with
            post-norm of the last layer's output, too.
        attention_dropout: Share of attention probabilities that is dropped in training.
        feedforward_dropout: Share of the features inside the feed-forward that is dropped in
            training.
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
        positions: Literal["rotary", "transformer-xl", "alibi", "t5", "learned"] = "rotary",
        max_length: int | None = None,
        norm: Literal["pre", "post"] = "pre",
        activation: str = "gelu",
        feedforward_biases: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        feedforward_dropout: float = 0.0,
        checkpointing: bool = False,
        kernel: str = "auto",
    ) -> None:
        super().__init__()
        feedforward_width = 4 * width if feedforward_width is None else feedforward_width
        check_sizes(
            vocabulary_size=vocabulary_size,
            layers=layers,
            heads=heads,
            width=width,
            feedforward_width=feedforward_width,
        )
        check_positions(positions, max_length, width, heads)
        check_choices(norm, activation)
        check_shares(
            dropout=dropout,
            attention_dropout=attention_dropout,
            feedforward_dropout=feedforward_dropout,
        )
        self.heads, self.head_dim = heads, width // heads
        self.checkpointing = checkpointing
        self.base_pattern = self.pattern = causal(resolve(pattern))
        check_marks(self.pattern)
        self.window_scale = 1.0
        self._reaches: tuple[int | None, ...] | None = None
        self.post_norm = norm == "post"
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.positions: LearnedPositions | None = None
        if positions == "learned":
            assert max_length is not None
            self.positions = LearnedPositions(max_length, width)
        relative = positions == "transformer-xl"
        self.relative = RelativeBiases(heads, self.head_dim) if relative else None
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
                relative=relative,
            )
            feedforward = FeedForward(
                width, feedforward_width, activation, feedforward_biases, feedforward_dropout
            )
            self.blocks.append(
                Block(attention, feedforward, width, dropout, post_norm=self.post_norm)
            )
        # With post-norm the last layer's output is normalised already.
        self.norm = nn.Identity() if self.post_norm else nn.LayerNorm(width)
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
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, LearnedPositions | RelativeBiases) and modules is not None:
                # Its constructor has drawn already.
                module.reset_parameters()
        for block in self.blocks:
            assert isinstance(block, Block)
            if self.post_norm:
                break
            # Each branch adds to the stream: the sum should not grow with the depth.
            for linear in (block.attention.project_out, block.feedforward.project_out):
                if linear in wanted:
                    nn.init.normal_(linear.weight, std=INIT_STD / math.sqrt(2 * len(self.blocks)))
        last: nn.Module = self.norm
        if self.post_norm:
            block = self.blocks[-1]
            assert isinstance(block, Block)
            last = block.feedforward_norm
        if last in wanted:
            self._reset_norm(last)

    @torch.no_grad()
    def _reset_norm(self, norm: nn.Module) -> None:
        # The embedding is tied, so a plain gain of one predicts each token to follow itself. With
        # alternating signs, the products of a token's own vector cancel, and any gain trains
        # equally well.
        weight = norm.weight
        assert isinstance(weight, Tensor)
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
        self._reaches = None
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attention.pattern = self.pattern

    def reaches(self) -> tuple[int | None, ...]:
        """Return how many earlier tokens each layer can see; None where there is no limit."""
        if self._reaches is None:
            self._reaches = reaches(self.pattern, heads=self.heads, layers=len(self.blocks))
        return self._reaches

    def memory_lengths(self, memory: int) -> tuple[int, ...]:
        """Return how many tokens each layer sees of a memory of `memory` tokens.

        Raises:
            ValueError: The pattern does not allow a memory, or positions are learned.
        """
        if self.positions is not None:
            raise ValueError(
                "memory needs positions by distance (rotary, transformer-xl, alibi or t5): "
                "learned positions are the same in every segment"
            )
        check_distances(self.pattern, heads=self.heads, layers=len(self.blocks))
        return tuple(memory if n is None else min(n, memory) for n in self.reaches())

    def make_caches(self, memory: int | None = None) -> list[sp.KeyValueCache]:
        """Return an empty rolling cache for each layer.

        Args:
            memory: Tokens before a token that it sees at most; None for all that the pattern shows.
        """
        layers = len(self.blocks)
        pattern = self.pattern
        if memory is not None and any(n is None or n > memory for n in self.reaches()):
            pattern = pattern & sp.Window.before(memory)
        return [
            sp.KeyValueCache(pattern, heads=self.heads, layer=layer, layers=layers)
            for layer in range(layers)
        ]

    def forward(
        self,
        input_ids: Tensor,
        *,
        memory: Sequence[LayerMemory] | None = None,
        memory_mask: Tensor | None = None,
        keep: int | None = None,
        keep_keys: Sequence[int] | None = None,
        segment_ids: Tensor | None = None,
        restarts: Tensor | None = None,
        caches: Sequence[sp.KeyValueCache] | None = None,
        last_only: bool = False,
    ) -> DecoderOutput:
        """Predict the token after each position.

        Args:
            input_ids: int64 `(batch, length)`.
            memory: What was kept of the tokens before, from an earlier output.
            memory_mask: bool `(batch, longest memory)`, False for tokens of another stream.
            keep: Tokens before the next segment whose hidden states are returned: what comes into
                each layer, `(batch, tokens, width)`. The next segment projects them with the
                weights of its time. None for no memory.
            keep_keys: Tokens whose keys and values are returned instead, one number per layer (see
                `memory_lengths`). The same numbers as long as weights do not change.
            segment_ids: int `(batch, length)`, for a pattern with `SameDocument()`; positions start
                over in each document, so that it has the numbers of a run of its own.
            restarts: bool `(batch, length)`, True at the first token of a document: it and those
                after it see nothing before it, neither in the segment nor in the memory.
            caches: Rolling caches of each layer; the ids continue what the caches have seen.
            last_only: Return logits of the last position alone, `(batch, 1, vocabulary_size)`.

        Raises:
            ValueError: Both `segment_ids` and `restarts` are given, or both kinds of memory; or
                memory or a cache is used where sequences are cut among processes.
        """
        if segment_ids is not None and restarts is not None:
            raise ValueError("documents are marked by segment_ids or by restarts, got both")
        if keep is not None and keep_keys is not None:
            raise ValueError("memory is of hidden states (keep) or of keys (keep_keys), got both")
        documents = None if restarts is None else restarts.long().cumsum(1)
        start = caches[0].position if caches else 0
        split = current_split()
        if split is not None and (memory is not None or caches or keep or keep_keys or last_only):
            refuse_in_split("memory, caches and last_only")
        own = input_ids if split is None else split.cut(input_ids)
        x = self.embedding(own)
        if self.post_norm:
            x = x * math.sqrt(x.shape[-1])
        used = [None] * len(self.blocks) if memory is None else seen_of(memory, self.reaches())
        positions = self._positions_of_layers(input_ids, start, used, caches is not None)
        if self.positions is not None:
            ids = segment_ids if documents is None else documents
            x = x + learned(self.positions, input_ids, start, ids)
        if split is not None:
            documents = None if documents is None else split.cut(documents)
            segment_ids = None if segment_ids is None else split.cut(segment_ids)
        x = self.dropout(x)
        kept: list[LayerMemory] = []
        for layer, block in enumerate(self.blocks):
            if keep is not None:
                earlier = memory[layer] if memory else None
                assert earlier is None or isinstance(earlier, Tensor)
                kept.append(last_tokens(x if earlier is None else torch.cat((earlier, x), 1), keep))
            given: dict[str, Any] = {
                "memory": used[layer],
                "memory_mask": memory_mask,
                "segment_ids": segment_ids,
                "documents": documents,
                "cache": caches[layer] if caches else None,
            }
            if self.checkpointing and self.training and torch.is_grad_enabled():
                x, pair = checkpoint(block, x, positions[layer], use_reentrant=False, **given)
            else:
                x, pair = block(x, positions[layer], **given)
            if keep_keys is not None:
                tokens = keep_keys[layer]
                kept.append((last_tokens(pair[0], tokens), last_tokens(pair[1], tokens)))
        x = self.norm(x[:, -1:] if last_only else x)
        if self.post_norm:
            x = self.dropout(x)
        return DecoderOutput(F.linear(x, self.embedding.weight), tuple(kept) if kept else None)

    def why_not_split(self, training: bool) -> list[str]:
        """Return why the network cannot run where sequences are cut among processes.

        Args:
            training: Whether it is to be trained.
        """
        if self.distances is None:
            return []
        return ["positions='alibi' or 't5', a bias of the scores by distance"]

    def _positions_of_layers(
        self, ids: Tensor, start: int, used: Sequence[LayerMemory | None], cached: bool
    ) -> list[Positions]:
        """Return what the attention of each layer takes as positions."""
        if self.positions is not None:
            return [None] * len(self.blocks)
        held = [0 if one is None else tokens_of(one) for one in used]
        dtype = self.embedding.weight.dtype
        if self.distances is not None:
            furthest = start + max(held, default=0) + ids.shape[1]
            return [self.distances(furthest, self.embedding.weight)] * len(held)
        if self.relative is None:
            return rotary_of_layers(held, start, ids, self.head_dim, dtype)
        width = self.embedding.embedding_dim
        reaches = self.reaches()
        return relative_of_layers(
            held, start, ids, self.relative, width, reaches, dtype, cached=cached
        )
