"""Keys and values of the heads that need the same ones: a buffer with slack, compacted when full.

Tokens are appended behind the last one. Only when the buffer is full are the keys that nobody can
see any more dropped, so that a token costs a constant share of one compaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sparse_patterns.kernels import exact
from sparse_patterns.nn.cache_terms import CacheTerms, attend_with
from sparse_patterns.spec.algebra import replace_atoms
from sparse_patterns.spec.atoms import Global
from sparse_patterns.spec.base import Pattern, union
from sparse_patterns.spec.binding import BoundRule
from sparse_patterns.spec.lookahead import negation_normal_form, still_visible
from sparse_patterns.spec.oracle import ExampleContext, visible

MIN_SLACK = 32


def _slack(kept: int) -> int:
    """Return the places left free behind `kept` keys: a share makes appends O(1) on average."""
    return max(MIN_SLACK, kept // 8)


@dataclass
class Store:
    """Kept keys of some key/value heads.

    Attributes:
        patterns: The bound pattern of each query head, grouped by key/value head.
        kv_heads: Which key/value heads are held, ascending.
        used: Tokens held; the rest of the buffers is slack.
        keys: `(batch, len(kv_heads), capacity, head_dim)`.
        values: Of the shape of `keys`.
        positions: int64 `(capacity,)`, absolute.
    """

    patterns: tuple[tuple[Pattern, ...], ...]
    kv_heads: tuple[int, ...]
    used: int = 0
    keys: Tensor = field(init=False, repr=False)
    values: Tensor = field(init=False, repr=False)
    positions: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Derive once what is asked at each token."""
        distinct = list(dict.fromkeys(one for group in self.patterns for one in group))
        self._distinct = distinct
        self._needed = union(*(negation_normal_form(one) for one in distinct))
        # No rule reads the length once negative tokens are refused, except to look global tokens
        # up: a context up to the last of them will do at any position.
        tokens = [
            token
            for one in distinct
            for atom in one.walk()
            if isinstance(atom, Global)
            for token in atom.tokens
        ]
        self._context = ExampleContext(kv_len=max(tokens, default=-1) + 1)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, slack included."""
        return self.keys.nbytes + self.values.nbytes + self.positions.nbytes

    def fill(self, k: Tensor, v: Tensor) -> None:
        """Start with what is still needed of the first tokens, `(batch, kv_heads, new, dim)`."""
        now = k.shape[2]
        positions = torch.arange(now, device=k.device)
        kept = still_visible(self._needed, positions, now).nonzero()[:, 0]
        self._move(self._own(k), self._own(v), positions, kept, kept.numel() + _slack(kept.numel()))

    def append(self, k: Tensor, v: Tensor, positions: Tensor, now: int) -> None:
        """Append new tokens at `positions`, of which the first is `now`."""
        new = positions.numel()
        if self.used + new > self.positions.numel():
            self.compact(new, now)
        place = slice(self.used, self.used + new)
        self.keys[:, :, place] = self._own(k)
        self.values[:, :, place] = self._own(v)
        self.positions[place] = positions
        self.used += new

    def attend(
        self,
        q: Tensor,
        positions: Tensor,
        scale: float | None,
        out: Tensor,
        terms: CacheTerms | None = None,
    ) -> None:
        """Write the rows of the query heads into `out`, `(batch, heads, new, head_dim)`."""
        batch, _, new, head_dim = q.shape
        held, share = len(self.patterns), len(self.patterns[0])
        # The query heads of one key/value head are rows of one product: keys are never repeated.
        rows = self._own(q.unflatten(1, (-1, share))).reshape(batch, held, share * new, head_dim)
        mask = self._mask(positions)
        keys, values = self.keys[:, :, : self.used], self.values[:, :, : self.used]
        own = exact.NO_TERMS
        if terms is None:
            seen = scaled_dot_product_attention(rows, keys, values, attn_mask=mask, scale=scale)
        else:
            factor = max(1, head_dim) ** -0.5 if scale is None else scale
            heads = [head * share + one for head in self.kv_heads for one in range(share)]
            own = terms.of(heads, share, positions, self.positions[: self.used])
            seen = attend_with(rows, keys, values, mask, factor, own)
        if not bool(seen.isfinite().all()):
            # A hidden key or value that is not finite spoils rows that do not see it.
            factor = max(1, head_dim) ** -0.5 if scale is None else scale
            found = exact.attend(rows, keys, values, mask, factor, terms=own)
            seen = found[0].to(out.dtype)
        # Fused kernels differ in what they give for a row without keys.
        seen = torch.where(mask.any(-1, keepdim=True), seen, 0)
        by_kv_head = out.unflatten(1, (-1, share))
        by_kv_head[:, self._index()] = seen.reshape(batch, held, share, new, head_dim)

    def reorder(self, index: Tensor) -> None:
        """Take the examples `index` of the batch."""
        index = index.to(self.keys.device)
        with torch.inference_mode(False), torch.no_grad():
            self.keys = self.keys.index_select(0, index)
            self.values = self.values.index_select(0, index)

    def _own(self, tensor: Tensor) -> Tensor:
        """Select this store's heads of `(batch, all kv_heads, ...)`."""
        return tensor[:, self._index()]

    def _index(self) -> slice | list[int]:
        """Return this store's heads as a slice where they are adjacent, which copies nothing."""
        first, last = self.kv_heads[0], self.kv_heads[-1]
        together = last - first + 1 == len(self.kv_heads)
        return slice(first, last + 1) if together else list(self.kv_heads)

    def _mask(self, positions: Tensor) -> Tensor:
        """Return bool `(rows, used)`, or `(kv_heads, rows, used)` where the heads differ."""
        q, k = positions[:, None], self.positions[None, : self.used]
        shape = (positions.numel(), self.used)
        seen = {one: visible(one, q, k, self._context).expand(shape) for one in self._distinct}
        if len(set(self.patterns)) == 1:
            return torch.cat([seen[one] for one in self.patterns[0]])
        return torch.stack([torch.cat([seen[one] for one in group]) for group in self.patterns])

    def compact(self, new: int, now: int) -> None:
        """Drop what no query from `now` on can see, and make room for `new` tokens."""
        kept = still_visible(self._needed, self.positions[: self.used], now).nonzero()[:, 0]
        wanted = kept.numel() + new + _slack(kept.numel())
        capacity = self.positions.numel()
        # A buffer much larger than needed, after many tokens at once, is given back.
        fits = wanted <= capacity <= 2 * wanted
        self._move(self.keys, self.values, self.positions, kept, capacity if fits else wanted)

    def _move(
        self, keys: Tensor, values: Tensor, positions: Tensor, kept: Tensor, capacity: int
    ) -> None:
        """Put the `kept` places of the given buffers in front of buffers of a capacity."""
        self.used = kept.numel()
        # Buffers made under inference mode could not be written to outside of it; leaving that mode
        # switches gradients on.
        with torch.inference_mode(False), torch.no_grad():
            for name, source, dim in (
                ("keys", keys, 2),
                ("values", values, 2),
                ("positions", positions, 0),
            ):
                chosen = source.index_select(dim, kept)
                shape = (*source.shape[:dim], capacity, *source.shape[dim + 1 :])
                same = source is getattr(self, name, None) and source.shape == shape
                buffer = source if same else source.new_empty(shape)
                buffer.narrow(dim, 0, self.used).copy_(chosen)
                setattr(self, name, buffer)


def make_stores(bound: Sequence[Pattern], kv_heads: int) -> list[Store]:
    """Group the key/value heads by what their query heads may need.

    Args:
        bound: The pattern of each query head, from `binding.bind`.
        kv_heads: Number of key/value heads; divides the number of query heads.
    """
    share = len(bound) // kv_heads
    groups: dict[tuple[Pattern, ...], list[int]] = {}
    for head in range(kv_heads):
        needs = (_nameless(one) for one in bound[head * share : (head + 1) * share])
        groups.setdefault(tuple(needs), []).append(head)
    return [
        Store(
            tuple(tuple(bound[head * share : (head + 1) * share]) for head in heads), tuple(heads)
        )
        for heads in groups.values()
    ]


def _nameless(pattern: Pattern) -> Pattern:
    """Return the pattern with the rules of all heads alike: what they need is known of none."""

    def one(atom: Pattern) -> Pattern:
        return BoundRule(atom.fn, atom.name) if isinstance(atom, BoundRule) else atom

    return replace_atoms(pattern, one)
