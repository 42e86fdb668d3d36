"""Causal self-attention with relative positions, segment memory and a rolling cache.

Shapes: B batch, H heads, L tokens of the segment, M tokens of memory, D head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import sparse_patterns as sp
from lit_modules.nn.decoder.embeddings import Rotary, rotate
from sparse_patterns.nn.documents import attend_documents

__all__ = ["KeysValues", "SelfAttention"]

KeysValues = tuple[Tensor, Tensor]
"""Keys before rotation and values of one layer, each (B, H, tokens, D)."""


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
    ) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.pattern, self.layer, self.layers = pattern, layer, layers
        self.dropout, self.kernel = dropout, kernel
        # Without biases: a bias of the keys shifts all scores of a query equally and would never
        # train.
        self.project_in = nn.Linear(width, 3 * width, bias=False)
        self.project_out = nn.Linear(width, width, bias=False)

    def forward(
        self,
        x: Tensor,
        rotary: Rotary | None,
        *,
        memory: KeysValues | None = None,
        memory_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        cache: sp.KeyValueCache | None = None,
        distance_bias: Tensor | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Attend to the segment and to what came before it.

        Args:
            x: Tokens (B, L, width).
            rotary: Rotations of the last tokens of memory and segment, at least M + L of them; None
                for other positions.
            memory: Keys and values of earlier tokens, each (B, H, M, D).
            memory_mask: bool (B, at least M), ending with the segment's predecessor; False for
                tokens of another stream.
            segment_ids: int (B, L), for a pattern with `SameDocument()`; positions of the pattern
                start over in each document.
            cache: Rolling cache for generation, instead of memory.
            distance_bias: Bias of the scores by distance, as in `sparse_patterns.attention`.

        Returns:
            Tokens (B, L, width), and all keys before rotation and values, each (B, H, M + L, D).
        """
        length = x.shape[1]
        q, k, v = self.project_in(x).unflatten(-1, (3, self.heads, self.head_dim)).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if memory is not None:
            k, v = torch.cat((memory[0], k), dim=2), torch.cat((memory[1], v), dim=2)
        kept = (k, v)
        if rotary is not None:
            # Keys are stored unrotated and rotated here: only differences of positions matter, and
            # counted from the start of the memory they stay small however long the stream is.
            q = rotate(q, _last(rotary, length))
            k = rotate(k, _last(rotary, k.shape[2]))
        if cache is not None:
            out = cache.attend(q, k, v, kernel=self.kernel, distance_bias=distance_bias)
        elif segment_ids is not None and sp.SameDocument() in self.pattern.walk():
            out = attend_documents(
                q,
                k,
                v,
                self.pattern,
                segment_ids,
                layer=self.layer,
                layers=self.layers,
                dropout_p=self.dropout if self.training else 0.0,
                kernel=self.kernel,
                distance_bias=distance_bias,
            )
        else:
            attended = sp.attention(
                q,
                k,
                v,
                self.pattern,
                layer=self.layer,
                layers=self.layers,
                key_mask=_key_mask(memory_mask, length, k.shape[2]),
                segment_ids=segment_ids,
                dropout_p=self.dropout if self.training else 0.0,
                kernel=self.kernel,
                distance_bias=distance_bias,
            )
            assert isinstance(attended, Tensor)
            out = attended
        return self.project_out(out.transpose(1, 2).flatten(2)), kept


def _last(rotary: Rotary, tokens: int) -> Rotary:
    cos, sin = rotary
    start = cos.shape[0] - tokens
    return cos[start:], sin[start:]


def _key_mask(memory_mask: Tensor | None, length: int, kv_len: int) -> Tensor | None:
    if memory_mask is None or kv_len == length:
        return None
    own = memory_mask[:, memory_mask.shape[1] - (kv_len - length) :]
    return torch.cat((own, own.new_ones(own.shape[0], length)), dim=1)
