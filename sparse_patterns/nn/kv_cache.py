"""A rolling key/value cache: it keeps only the keys that some later query can still see.

What can be dropped follows from the pattern (see `sparse_patterns.spec.lookahead`): a window drops
what is behind it, sinks and summary columns stay, a full layer keeps everything. Heads that
need the same keys share a store; a wide window on two heads does not make the others keep more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparse_patterns.kernels.dispatch import check_kernel
from sparse_patterns.kernels.transforms import cast, scaled
from sparse_patterns.nn.cache_terms import CacheTerms
from sparse_patterns.nn.kv_store import Store, make_stores
from sparse_patterns.spec.arguments import floating, tensor
from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.binding import bind
from sparse_patterns.spec.lookahead import call_time_parts, look_ahead, negation_normal_form
from sparse_patterns.spec.scores import check_devices, check_scores
from sparse_patterns.spec.validation import INTEGER_TYPES, check_pattern

# Queries that are answered at once after the first call; bounds the size of scores and masks.
PIECE = 256


class KeyValueCache:
    """Keys and values of one attention layer, for generating text with a causal pattern.

    The first call of `attend` may hold a whole prompt, and runs on the fast kernels. Later calls
    bring one token or many; they give the same numbers as one full pass over everything.

    Example:
        >>> cache = KeyValueCache(Window.before(1023) | Global((0,), rows=False), heads=8)
        >>> out = cache.attend(q, k, v)  # the prompt, then one token at a time

    Args:
        pattern: A causal pattern.
        heads: Number of query heads.
        layer: Layer of a pattern that varies over layers.
        layers: Number of layers of the model.

    Raises:
        ValueError: The pattern sees later keys, or depends on the final length or on tensors given
            at call time; the message names the part.
    """

    def __init__(self, pattern: Pattern, *, heads: int, layer: int = 0, layers: int = 1) -> None:
        self.pattern = check_pattern(pattern)
        self.heads, self.layer, self.layers = heads, layer, layers
        self._bound = bind(self.pattern, heads=heads, layer=layer, layers=layers)
        for head, one in enumerate(self._bound):
            _check_rolling(one, head)
        self.reset()

    @property
    def position(self) -> int:
        """Absolute position of the next token: the number of tokens seen so far."""
        return self._position

    @property
    def keys_kept(self) -> int:
        """Keys held for the head that holds most, a few that wait for being dropped included."""
        return max((store.used for store in self._stores), default=0)

    @property
    def nbytes(self) -> int:
        """Bytes allocated for keys, values and their positions."""
        return sum(store.nbytes for store in self._stores)

    def reset(self) -> None:
        """Forget everything and free the memory; another batch, type or device may follow."""
        self._position = 0
        self._stores: list[Store] = []
        self._first: dict[str, Any] = {}

    def reorder(self, index: Tensor) -> None:
        """Replace the batch by the examples `index`, as beam search does after each step.

        Args:
            index: Integers `(new batch,)`, each in `0 .. batch - 1`; may repeat or leave out
                examples.

        Raises:
            TypeError: The index is no tensor.
            ValueError: The index is not one row of integers, or names an example that is not there.
        """
        tensor("index", index)
        if index.ndim != 1 or index.dtype not in INTEGER_TYPES:
            raise ValueError(
                f"index must be integers of shape (new batch,), got {index.dtype} "
                f"of shape {tuple(index.shape)}"
            )
        if not self._stores:
            return
        batch = self._first["batch"]
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < batch:
            raise ValueError(
                f"index must be in 0..{batch - 1} (batch {batch}), got {index.tolist()}"
            )
        for store in self._stores:
            store.reorder(index)
        self._first["batch"] = index.numel()

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | Tensor | None = None,
        kernel: str = "auto",
        softcap: float | None = None,
        sinks: Tensor | None = None,
        distance_bias: Tensor | None = None,
    ) -> Tensor:
        """Append new keys and values, and return what the new queries see of everything so far.

        Args:
            q: New queries `(batch, heads, new, head_dim)`.
            k: New keys `(batch, kv_heads, new, head_dim)`; `kv_heads` must divide `heads`.
            v: New values, of the shape of `k`.
            scale: Factor of the scores, a number or a tensor of one; `head_dim ** -0.5` by default.
            kernel: Kernel of the first call, on an empty cache. Later calls attend to the kept keys
                by exact masks, `PIECE` queries at a time.
            softcap: As in `attention`, like the next two; the same in every call.
            sinks: `(heads,)`.
            distance_bias: `(heads, 2 * m + 1)`.

        Returns:
            `(batch, heads, new, head_dim)`; zeros for a query that sees no key.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: A shape does not fit, or batch, type or device differ from the first call.
            RuntimeError: A gradient would be lost; the cache is for inference.
        """
        check_kernel(kernel)
        for name, one in (("q", q), ("k", k), ("v", v)):
            floating(name, one)
        q, k, v = cast(q, k, v)
        self._check(q, k, v, scale, sinks, distance_bias)
        softcap = check_scores(softcap, sinks, distance_bias, self.heads)
        check_devices(q, sinks, distance_bias)
        terms = CacheTerms.of_call(softcap, sinks, distance_bias)
        with torch.no_grad():
            factor, (q,) = scaled(scale, q)
            if not self._position:
                return self._start(q, k, v, factor, kernel, terms)
            out = torch.empty_like(q, memory_format=torch.contiguous_format)
            for start in range(0, q.shape[2], PIECE):
                piece = slice(start, start + PIECE)
                new = (q[:, :, piece], k[:, :, piece], v[:, :, piece])
                self._extend(*new, factor, out[:, :, piece], terms)
            return out

    def _start(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        kernel: str,
        terms: CacheTerms | None,
    ) -> Tensor:
        from sparse_patterns.functional import attention

        given = {} if terms is None else vars(terms)
        same: dict[str, Any] = {
            "layer": self.layer,
            "layers": self.layers,
            "scale": scale,
            "kernel": kernel,
        }
        out = attention(q, k, v, self.pattern, **same, **given)
        assert isinstance(out, Tensor)
        if q.shape[2]:
            self._first = _what_must_stay(k)
            self._stores = make_stores(self._bound, k.shape[1])
            self._position = k.shape[2]
            for store in self._stores:
                store.fill(k, v)
        return out

    def _extend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        out: Tensor,
        terms: CacheTerms | None,
    ) -> None:
        end = self._position + q.shape[2]
        positions = torch.arange(self._position, end, device=q.device)
        for store in self._stores:
            store.append(k, v, positions, self._position)
            store.attend(q, positions, scale, out, terms)
        self._position = end

    def _check(self, q: Tensor, k: Tensor, v: Tensor, *more: object) -> None:
        for name, one in (("q", q), ("k", k), ("v", v)):
            if one.ndim != 4:
                raise ValueError(
                    f"{name} must have shape (batch, heads, new, head_dim), got {tuple(one.shape)}"
                )
            if (one.dtype, one.device) != (q.dtype, q.device):
                raise ValueError(
                    f"q, k and v must have one dtype and device: q has {q.dtype} on {q.device}, "
                    f"{name} has {one.dtype} on {one.device}"
                )
        if q.shape[1] != self.heads:
            raise ValueError(f"q must have the {self.heads} heads of the cache, got {q.shape[1]}")
        if not k.shape[1] or self.heads % k.shape[1]:
            raise ValueError(f"heads of k must divide the {self.heads} of q, got {k.shape[1]}")
        if k.shape != v.shape or q[:, :1].shape != k[:, :1].shape:
            raise ValueError(
                "k and v must have one shape, and batch, number of new tokens and head_dim of q, "
                f"got q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
            )
        for name, value in _what_must_stay(k).items():
            if value != self._first.get(name, value):
                raise ValueError(
                    f"{name} must be {self._first[name]} as in the first call, got {value}; "
                    "reset() starts a new sequence"
                )
        given = [x for x in (q, k, v, *more) if isinstance(x, Tensor)]
        if torch.is_grad_enabled() and any(x.requires_grad for x in given):
            raise RuntimeError(
                "the cache keeps no gradients, but q, k, v, scale, sinks or distance_bias requires "
                "one; "
                "call it under torch.no_grad() or torch.inference_mode()"
            )


def _what_must_stay(k: Tensor) -> dict[str, Any]:
    """Return what every call of one sequence must have in common."""
    return {
        "batch": k.shape[0],
        "kv_heads": k.shape[1],
        "head_dim": k.shape[3],
        "dtype": k.dtype,
        "device": k.device,
    }


def _check_rolling(pattern: Pattern, head: int) -> None:
    for part, why in call_time_parts(pattern):
        raise ValueError(f"the cache cannot hold {part!r} (head {head}): it depends on {why}")
    ahead = look_ahead(negation_normal_form(pattern))
    if ahead is not None:
        raise ValueError(
            f"the cache needs a causal pattern, but {ahead!r} (head {head}) may see keys after the "
            "query; write pattern & Causal()"
        )
