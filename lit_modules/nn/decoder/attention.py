"""Causal self-attention with relative positions, segment memory and a rolling cache.

Shapes: B batch, H heads, L tokens of the segment, M tokens of memory, D head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparse_patterns as sp
from lit_modules.nn.decoder.embeddings import Rotary, rotate
from lit_modules.nn.decoder.pairs import attend_pairs, shown_pairs
from lit_modules.nn.decoder.relative import Relative
from sparse_patterns.distributed.context.dispatch import attend
from sparse_patterns.distributed.context.split import current_split
from sparse_patterns.kernels.dispatch import check_kernel
from sparse_patterns.nn.documents import attend_documents

__all__ = ["KeysValues", "Positions", "SelfAttention"]

KeysValues = tuple[Tensor, Tensor]
"""Keys before positions are added and values of one layer, each (B, H, tokens, D)."""

Positions = Rotary | Relative | Tensor | None
"""Rotations, the features of Transformer-XL, the table of a bias by distance `(heads, 2 * m + 1)`,
or None for learned positions."""


class SelfAttention(nn.Module):
    """Projections around `sparse_patterns.attention`.

    Args:
        width: Features of a token; a multiple of `heads`.
        heads: Number of heads.
        pattern: What each token sees.
        layer: Which layer of the pattern this is.
        layers: Number of layers of the model.
        dropout: Share of attention probabilities that is dropped in training.
        kernel: Kernel of `sparse_patterns.attention`.
        relative: Whether positions are those of Transformer-XL, which need a projection.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        pattern: sp.Pattern,
        *,
        layer: int,
        layers: int,
        dropout: float = 0.0,
        kernel: str = "auto",
        relative: bool = False,
    ) -> None:
        super().__init__()
        check_kernel(kernel)
        self.heads, self.head_dim = heads, width // heads
        self.pattern, self.layer, self.layers = pattern, layer, layers
        self.dropout, self.kernel = dropout, kernel
        # Without biases: a bias of the keys shifts all scores of a query equally and would never
        # train.
        self.project_in = nn.Linear(width, 3 * width, bias=False)
        self.project_out = nn.Linear(width, width, bias=False)
        self.project_positions = nn.Linear(width, width, bias=False) if relative else None

    def forward(
        self,
        x: Tensor,
        positions: Positions,
        *,
        memory: Tensor | KeysValues | None = None,
        memory_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        documents: Tensor | None = None,
        cache: sp.KeyValueCache | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Attend to the segment and to what came before it.

        Args:
            x: Tokens (B, L, width).
            positions: Of the last tokens of memory and segment, at least M + L of them; None for
                learned positions.
            memory: Earlier tokens (B, M, width), which are projected like those of the segment, or
                their keys and values, each (B, H, M, D).
            memory_mask: bool (B, at least M), ending with the segment's predecessor; False for
                tokens of another stream.
            segment_ids: int (B, L), for a pattern with `SameDocument()`; positions of the pattern
                start over in each document.
            documents: int (B, L), the number of each token's document, 0 for the one that the
                memory is of; tokens of other documents are not seen, whatever the pattern.
            cache: Rolling cache for generation, instead of memory.

        Returns:
            Tokens (B, L, width), and all keys before positions and values, each (B, H, M + L, D).
        """
        length = x.shape[1]
        if isinstance(memory, Tensor):
            x = torch.cat((memory, x), dim=1)
        q, k, v = self.project_in(x).unflatten(-1, (3, self.heads, self.head_dim)).unbind(2)
        q = q[:, q.shape[1] - length :]
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if isinstance(memory, tuple):
            k, v = torch.cat((memory[0], k), dim=2), torch.cat((memory[1], v), dim=2)
        kept = (k, v)
        # Positions are added here and not kept: only differences matter, and counted from the start
        # of the memory they stay small however long the stream is.
        if isinstance(positions, Relative):
            weight = self._weight_of_positions()
            masked = _key_mask(memory_mask, length, k.shape[2]) is not None
            plain = not masked and segment_ids is None and documents is None and cache is None
            shown = self._shown(q, k, positions) if plain else None
            if shown is not None:
                share = self.dropout if self.training else 0.0
                out = attend_pairs(q, k, v, positions, weight, shown, share)
                return self.project_out(out.transpose(1, 2).flatten(2)), kept
            q, k, v = positions.extend(q, k, v, weight)
        elif isinstance(positions, tuple):
            q = rotate(q, _last(positions, length))
            k = rotate(k, _last(positions, k.shape[2]))
        bias = positions if isinstance(positions, Tensor) else None
        out = self._attend(q, k, v, memory_mask, segment_ids, documents, cache, bias)
        out = out[..., : self.head_dim]
        return self.project_out(out.transpose(1, 2).flatten(2)), kept

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        memory_mask: Tensor | None,
        segment_ids: Tensor | None,
        documents: Tensor | None,
        cache: sp.KeyValueCache | None,
        bias: Tensor | None,
    ) -> Tensor:
        scale = self.head_dim**-0.5
        if cache is not None:
            return cache.attend(q, k, v, scale=scale, kernel=self.kernel, distance_bias=bias)
        dropout = self.dropout if self.training else 0.0
        past = k.shape[2] - q.shape[2]
        pattern = self.pattern
        if documents is not None and past:
            # A memory needs a pattern of distances, so that nothing depends on where a document
            # starts but what is hidden.
            pattern = pattern & sp.SameDocument()
            segment_ids = F.pad(documents, (past, 0))
        elif documents is not None or (
            segment_ids is not None and sp.SameDocument() in pattern.walk()
        ):
            ids = documents if segment_ids is None else segment_ids
            assert ids is not None
            return attend_documents(
                q,
                k,
                v,
                pattern,
                ids,
                layer=self.layer,
                layers=self.layers,
                scale=scale,
                dropout_p=dropout,
                kernel=self.kernel,
                distance_bias=bias,
            )
        return attend(
            q,
            k,
            v,
            pattern,
            layer=self.layer,
            layers=self.layers,
            key_mask=_key_mask(memory_mask, q.shape[2], k.shape[2]),
            segment_ids=segment_ids,
            scale=scale,
            dropout_p=dropout,
            kernel=self.kernel,
            distance_bias=bias,
        )

    def why_not_split(self, training: bool) -> list[str]:
        """Return why the module cannot run where sequences are cut among processes.

        Args:
            training: Whether it is to be trained.
        """
        return ["dropout of attention weights"] if training and self.dropout else []

    def _shown(self, q: Tensor, k: Tensor, positions: Relative) -> Tensor | None:
        """Return the pairs that are seen where their matrix is to be made, else None."""
        # A kernel that was named serves; a compiled program has one form.
        if self.kernel != "auto" or torch.compiler.is_compiling() or current_split() is not None:
            return None
        return shown_pairs(
            self.pattern, q, k, positions.waves.features, layer=self.layer, layers=self.layers
        )

    def _weight_of_positions(self) -> Tensor:
        """Return the matrix `W_R` (H * D, width)."""
        project = self.project_positions
        assert project is not None
        if type(project) is nn.Linear:
            return project.weight
        # An adapter in its place has a matrix of its own, which it shows when it is called.
        weight = project.weight
        unit = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
        rows: Tensor = project(unit)
        return rows.T


def _last(rotary: Rotary, tokens: int) -> Rotary:
    cos, sin = rotary
    start = cos.shape[0] - tokens
    return cos[start:], sin[start:]


def _key_mask(memory_mask: Tensor | None, length: int, kv_len: int) -> Tensor | None:
    if memory_mask is None or kv_len == length:
        return None
    own = memory_mask[:, memory_mask.shape[1] - (kv_len - length) :]
    return torch.cat((own, own.new_ones(own.shape[0], length)), dim=1)
