"""Relative positions of Transformer-XL, as features of queries and keys.

After Dai et al. 2019, section 3.3. The score of query `i` and key `j` is

    (q_i + u) . k_j  +  (q_i + v) . W_R R_(i - j)

with learned vectors `u` and `v` for each head, a learned matrix `W_R`, and the sines and cosines
`R_t` of a distance `t`. The second term is a sum of `a cos(w (i - j)) + b sin(w (i - j))` over
frequencies `w`, with `a` and `b` linear in the query. Since

    cos(w (i - j)) = cos(w i) cos(w j) + sin(w i) sin(w j)
    sin(w (i - j)) = sin(w i) cos(w j) - cos(w i) sin(w j)

it is an inner product of features of the query with the sines and cosines of the key's position.
Both terms are then one product of longer vectors, which every kernel computes, in memory that grows
with the length alone.

Which frequencies are taken is free, as long as they give the term at all distances that are seen.
Those of `R` are `width / 2`. Where fewer than `width` distances are seen, a discrete Fourier series
over them is as exact, and shorter.

Shapes: B batch, H heads, L queries, T keys, D head_dim, W width of the model, F waves.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Relative", "RelativeBiases", "Waves", "sinusoids", "waves"]

ALIGNMENT = 8
"""The number of features is a multiple of this, which fused kernels ask for."""

LONGEST_PERIOD = 1e4
"""Ratio of the longest to the shortest period of `R`."""


class RelativeBiases(nn.Module):
    """The vectors `u` and `v`, one a head, which all layers share.

    Args:
        heads: Number of heads.
        head_dim: Size of a head.
    """

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.empty(heads, head_dim))
        self.v = nn.Parameter(torch.empty(heads, head_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw small vectors."""
        nn.init.normal_(self.u, std=0.02)
        nn.init.normal_(self.v, std=0.02)


class Waves(NamedTuple):
    """Frequencies in which the term of the distances is written, at some positions.

    Attributes:
        cos: `(positions, F)`.
        sin: `(positions, F)`.
        first: The first wave with a sine that is not zero everywhere.
        stop: The wave after the last of these.
        basis: `(W, 2 F)`, from factors of `R` to factors of the cosines and of the sines here;
            None where the waves are those of `R`.
    """

    cos: Tensor
    sin: Tensor
    first: int
    stop: int
    basis: Tensor | None

    @property
    def features(self) -> int:
        """How many numbers a position has."""
        return self.cos.shape[1] + self.stop - self.first

    def last(self, tokens: int) -> Waves:
        """Return the waves at the last positions."""
        start = self.cos.shape[0] - tokens
        return self._replace(cos=self.cos[start:], sin=self.sin[start:])


class Relative(NamedTuple):
    """What a layer needs for relative positions.

    Attributes:
        waves: At the positions of memory and segment, or of the segment alone for a cache.
        u: `(H, D)`, added to queries before they meet keys.
        v: `(H, D)`, added to queries before they meet distances.
    """

    waves: Waves
    u: Tensor
    v: Tensor

    def extend(self, q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """Return queries and keys whose product is the score, and values of the same size.

        Args:
            q: Queries (B, H, L, D), at the last of the positions.
            k: Keys (B, H, T, D), at the last of the positions.
            v: Values (B, H, T, D).
            weight: `W_R`, (H * D, W).

        Returns:
            `(B, H, L or T, D + features)` each; the values are filled up with zeros.
        """
        heads, size = q.shape[1], q.shape[3]
        of_query, of_key = self.waves.last(q.shape[2]), self.waves.last(k.shape[2])
        matrix = weight.unflatten(0, (heads, size))
        # Zeros at the end, which add nothing.
        missing = -(of_key.features + size) % ALIGNMENT
        if of_key.basis is None:
            # R has the sines first.
            sines, cosines = ((q + self.v[:, None].to(q.dtype)) @ matrix.to(q.dtype)).chunk(2, -1)
        else:
            matrix = matrix.to(of_key.basis.dtype) @ of_key.basis
            factors = (q + self.v[:, None].to(q.dtype)) @ matrix.to(q.dtype)
            cosines, sines = factors.chunk(2, -1)
        cosines, sines = cosines.to(of_query.cos.dtype), sines.to(of_query.cos.dtype)
        with_cos = cosines * of_query.cos + sines * of_query.sin
        kept = slice(of_query.first, of_query.stop)
        with_sin = (cosines * of_query.sin - sines * of_query.cos)[..., kept]
        features = F.pad(torch.cat((of_key.cos, of_key.sin[:, kept]), dim=-1), (0, missing))
        features = features.to(k.dtype).expand(*k.shape[:2], -1, -1)
        q = torch.cat(
            (q + self.u[:, None].to(q.dtype), with_cos.to(q.dtype), with_sin.to(q.dtype)), dim=-1
        )
        k = torch.cat((k, features), dim=-1)
        return F.pad(q, (0, missing)), k, F.pad(v, (0, features.shape[-1]))


def sinusoids(distances: Tensor, width: int) -> Tensor:
    """Return `R_t` of distances, float64 `(*distances, width)`: sines, then cosines.

    Args:
        distances: int64, in tokens.
        width: Features of a token, an even number.
    """
    angles = distances[..., None].to(_exact(distances.device)) * _frequencies(
        width, distances.device
    )
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def waves(positions: Tensor, width: int, reach: int, dtype: torch.dtype) -> Waves:
    """Return the waves for distances from 0 to `reach`, as few as are exact.

    Args:
        positions: int64 `(positions,)`, consecutive, in tokens.
        width: Features of a token, an even number.
        reach: The longest distance that is seen.
        dtype: Type of the model; tables are float32, or float64 for a float64 model.
    """
    table = torch.float64 if dtype == torch.float64 else torch.float32
    device = positions.device
    if reach + 1 >= width:
        angles = positions[:, None].to(_exact(device)) * _frequencies(width, device)
        return Waves(angles.cos().to(table), angles.sin().to(table), 0, width // 2, None)
    period = reach + 1
    angles = _angles(positions, period)
    # Tracing a compiled program sees through the cache, and computes the basis anew.
    made = _basis if torch.compiler.is_compiling() else _kept_basis
    basis = made(width, period, table, device)
    return Waves(angles.cos().to(table), angles.sin().to(table), 1, (period + 1) // 2, basis)


def _basis(width: int, period: int, table: torch.dtype, device: torch.device) -> Tensor:
    """Return the Fourier series over one period of each entry of `R`, `(width, 2 F)`."""
    distances = torch.arange(period, device=device)
    angles = _angles(distances, period)
    share = torch.full((angles.shape[1],), 2 / period, dtype=angles.dtype, device=device)
    share[0] = 1 / period
    if period % 2 == 0:
        share[-1] = 1 / period
    series = torch.cat((angles.cos() * share, angles.sin() * share), dim=-1)
    return (sinusoids(distances, width).T @ series).to(table)


_kept_basis = lru_cache(maxsize=64)(_basis)


def _angles(positions: Tensor, period: int) -> Tensor:
    """Return the angles of a Fourier series, `(positions, period // 2 + 1)`."""
    numbers = torch.arange(period // 2 + 1, device=positions.device)
    # Whole turns are taken off as integers, so that no position is too far for the angle.
    turns = positions[:, None] * numbers % period
    return turns.to(_exact(positions.device)) * (2 * math.pi / period)


def _frequencies(width: int, device: torch.device) -> Tensor:
    exponents = torch.arange(0, width, 2, device=device, dtype=_exact(device)) / width
    return LONGEST_PERIOD**-exponents


def _exact(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
