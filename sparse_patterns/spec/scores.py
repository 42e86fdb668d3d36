"""What changes the scores of attention: its checks at the door, and tables of distances by formula.

A table of distances has `2 * m + 1` numbers for each head: entry `clip(j - i, -m, m) + m` is added
to the scaled score of query `i` and key `j`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sparse_patterns.spec.arguments import floating, real
from sparse_patterns.spec.fields import LARGEST, boolean, integer


def check_scores(softcap: Any, sinks: Any, distance_bias: Any, heads: int) -> float | None:
    """Refuse a cap, sinks or a table of distances that do not fit, and return the cap.

    Args:
        softcap: A positive number, or None.
        sinks: `(heads,)`, or None.
        distance_bias: `(heads, 2 * m + 1)`, or None.
        heads: Number of query heads.

    Raises:
        TypeError: One of them has the wrong type.
        ValueError: The cap is not above 0, or a shape is not the one above.
    """
    if sinks is not None and floating("sinks", sinks).shape != (heads,):
        raise ValueError(f"sinks must have shape (heads,) = ({heads},), got {tuple(sinks.shape)}")
    if distance_bias is not None:
        shape = tuple(floating("distance_bias", distance_bias).shape)
        if len(shape) != 2 or shape[0] != heads or shape[1] % 2 == 0:
            raise ValueError(
                f"distance_bias must have shape (heads, 2 * m + 1) = ({heads}, an odd number), "
                f"got {shape}"
            )
    if softcap is None:
        return None
    cap = real("softcap", softcap)
    if cap <= 0:
        raise ValueError(f"softcap must be > 0, got {cap}")
    return cap


def check_devices(q: Tensor, sinks: Tensor | None, distance_bias: Tensor | None) -> None:
    """Refuse sinks or a table of distances on another device than the queries.

    Raises:
        ValueError: One of them is.
    """
    for name, tensor in (("sinks", sinks), ("distance_bias", distance_bias)):
        if tensor is not None and tensor.device != q.device:
            raise ValueError(f"{name} must be on {q.device} like q, got {tensor.device}")


def alibi(heads: int, max_distance: int) -> Tensor:
    """Return the table of ALiBi: minus the distance, times a slope of each head.

    The slopes are `2 ** (-8 * h / n)` for `h = 1 .. n`, where `n` is the number of heads, if that
    is a power of two; else those of the next smaller power of two, and then every other one of the
    next larger (Press et al. 2022, "Train Short, Test Long", and their code). Beyond
    `max_distance`, all distances count as that one.

    Args:
        heads: Number of heads.
        max_distance: Largest distance that is told apart, in tokens; no smaller than what the
            pattern sees.

    Returns:
        `(heads, 2 * max_distance + 1)`, float32, for `distance_bias` of `attention`.

    Raises:
        TypeError: An argument is no int.
        ValueError: `heads` is below 1, or `max_distance` below 0.
    """
    heads = integer("heads", heads, 1, LARGEST)
    m = integer("max_distance", max_distance, 0, LARGEST)
    power = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    slopes += [2 ** (-4 * (2 * h + 1) / power) for h in range(heads - power)]
    distance = torch.arange(-m, m + 1).abs()
    return -torch.tensor(slopes)[:, None] * distance


def t5_bias(
    weight: Tensor, max_distance: int, bidirectional: bool, max_bucket_distance: int = 128
) -> Tensor:
    """Return T5's learned bias as a table of distances; differentiable in `weight`.

    Near distances have a bucket each, farther ones share buckets that grow with the logarithm of
    the distance, and all from `max_bucket_distance` on share the last one (Raffel et al. 2020,
    section 2.1).

    Args:
        weight: `(buckets, heads)`, the weight of T5's `relative_attention_bias`.
        max_distance: Largest distance that is told apart, in tokens. `max_bucket_distance` is
            enough.
        bidirectional: Whether keys after the query have buckets of their own, as in encoders.
            Otherwise they have the bucket of distance 0.
        max_bucket_distance: `relative_attention_max_distance` of the model's configuration.

    Returns:
        `(heads, 2 * max_distance + 1)`, for `distance_bias` of `attention`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The weight has another shape, or a number is not allowed.
    """
    shape = tuple(floating("weight", weight).shape)
    if len(shape) != 2 or not shape[1]:
        raise ValueError(f"weight must have shape (buckets, heads), got {shape}")
    m = integer("max_distance", max_distance, 0, LARGEST)
    boolean("bidirectional", bidirectional)
    buckets = weight.shape[0] // 2 if bidirectional else weight.shape[0]
    exact = buckets // 2
    if exact < 1:
        least = 4 if bidirectional else 2
        raise ValueError(f"weight must have at least {least} buckets, got {weight.shape[0]}")
    far = integer("max_bucket_distance", max_bucket_distance, exact + 1, LARGEST)
    relative = torch.arange(-m, m + 1, device=weight.device)
    away = relative.abs() if bidirectional else (-relative).clamp(min=0)
    # In float32 and in this order, as models round it.
    ratio = torch.log(away.clamp(min=1).float() / exact) / math.log(far / exact)
    shared = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    bucket = torch.where(away < exact, away, shared)
    if bidirectional:
        bucket = bucket + (relative > 0) * buckets
    return weight[bucket].T
