"""What travels between processes for one layer: arithmetic, without a group of processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_patterns.distributed.layout import Interval, Layout, layout_of, overlap
from sparse_patterns.spec.atoms import BatchGlobal
from sparse_patterns.spec.base import Pattern, uses
from sparse_patterns.spec.binding import check_layer
from sparse_patterns.spec.fields import LARGEST, integer, shown
from sparse_patterns.spec.validation import check_pattern


@dataclass(frozen=True)
class Traffic:
    """Bytes that travel between processes for one layer and one example.

    Counted are keys, values, the rows of global tokens, and the gradients of all of these. Masks,
    which every process gets whole, are not: 1 byte a token for `key_mask` and for `global_mask`,
    and 8 for `segment_ids`.

    Attributes:
        lengths: Tokens of each rank.
        sent: Bytes that each rank sends in the forward pass.
        received: Bytes that each rank receives in the forward pass.
        backward_sent: Bytes that each rank sends in the backward pass.
        backward_received: Bytes that each rank receives in the backward pass.
        gathered: Bytes that each rank would receive in the forward pass if it were given all keys
            and values.
    """

    lengths: tuple[int, ...]
    sent: tuple[int, ...]
    received: tuple[int, ...]
    backward_sent: tuple[int, ...]
    backward_received: tuple[int, ...]
    gathered: tuple[int, ...]

    def seconds(self, bytes_per_second: float) -> float:
        """Return the time of the forward pass's transfers for the busiest rank.

        Args:
            bytes_per_second: Speed of a link, in each of both directions at once.
        """
        return max(*self.sent, *self.received) / bytes_per_second

    def __str__(self) -> str:
        ranks, longest = len(self.lengths), max(self.lengths)
        most, all_keys = max(*self.sent, *self.received), max(self.gathered)
        less = f", {all_keys / most:.3g} times as much" if most else ""
        lines = [
            f"{sum(self.lengths)} tokens over {ranks} ranks of {longest} tokens at most, one layer:"
        ]
        rows = (
            ("forward", max(self.sent), max(self.received)),
            ("backward", max(self.backward_sent), max(self.backward_received)),
        )
        for name, sent, received in rows:
            lines.append(
                f"  {name:<8}  a rank sends at most {_amount(sent)}, receives {_amount(received)}"
            )
        lines.append(f"  gathering all keys and values: {_amount(all_keys)} forward{less}")
        return "\n".join(lines)


def traffic(
    pattern: Pattern,
    length: int,
    ranks: int,
    *,
    heads: int,
    head_dim: int = 64,
    kv_heads: int | None = None,
    element_size: int = 4,
    layer: int = 0,
    layers: int = 1,
    global_tokens: Iterable[int] = (),
) -> Traffic:
    """Return what `attention` over several processes sends, for one layer and one example.

    Args:
        pattern: Any pattern.
        length: Tokens of the whole sequence, cut evenly.
        ranks: Number of processes.
        heads: Query heads.
        head_dim: Size of a head.
        kv_heads: Key and value heads; `heads` by default.
        element_size: Bytes of an element: 4 for float32, 2 for bfloat16.
        layer: Layer of a pattern that varies over layers.
        layers: Number of layers of the model.
        global_tokens: Positions that `global_mask` marks, for a pattern with `BatchGlobal()`.

    Raises:
        TypeError: `pattern` is not a pattern, or a number is no int.
        ValueError: A number is not allowed, the pattern does not fit the heads or layers, or global
            tokens are given that the pattern does not read.
    """
    check_pattern(pattern)
    length = integer("length", length, 0, LARGEST)
    ranks = integer("ranks", ranks, 1, LARGEST)
    heads = integer("heads", heads, 1, LARGEST)
    kv_heads = heads if kv_heads is None else integer("kv_heads", kv_heads, 1, LARGEST)
    if heads % kv_heads:
        raise ValueError(f"kv_heads must divide heads ({heads}), got {kv_heads}")
    integer("head_dim", head_dim, 1, LARGEST)
    integer("element_size", element_size, 1, LARGEST)
    check_layer(layer, layers)
    if isinstance(global_tokens, str) or not isinstance(global_tokens, Iterable):
        raise TypeError(f"global_tokens must be positions, got {shown(global_tokens)}")
    marked = sorted({integer("global token", one, 0, max(0, length - 1)) for one in global_tokens})
    if marked and not uses(pattern, BatchGlobal):
        raise ValueError(
            f"global_tokens were given, but the pattern has no BatchGlobal() to read them: "
            f"{pattern!r}"
        )
    lengths = tuple(length // ranks + (rank < length % ranks) for rank in range(ranks))
    layout = layout_of(pattern, heads, layer, layers, lengths)
    return traffic_of(layout, heads, kv_heads, head_dim, element_size, marked)


def traffic_of(
    layout: Layout,
    heads: int,
    kv_heads: int,
    head_dim: int,
    element_size: int,
    marked: Iterable[int] = (),
) -> Traffic:
    """Return what travels over a layout; see `traffic`."""
    marks = torch.tensor(sorted(marked), dtype=torch.int64, device="cpu")
    ranks = layout.ranks
    # keys[r, c]: keys of rank c that rank r needs.
    keys = torch.zeros(ranks, ranks, dtype=torch.int64, device="cpu")
    for rank in range(ranks):
        keys[rank] = _needed(layout, rank)
        keys[rank, rank] = 0
    rows = set(layout.row_tokens) | (set(marks.tolist()) if layout.batch_rows else set())
    seen = (marks >= layout.marked[0]) & (marks < layout.marked[1])
    shared = torch.unique(torch.cat([layout.shared, marks[seen]]))
    # How often each rank passes on, and is passed, rows and shared keys; back it is the reverse.
    rows_down, rows_up = _edges(
        _owners(layout, torch.tensor(sorted(rows), dtype=torch.int64, device="cpu"))
    )
    keys_down, keys_up = _edges(_owners(layout, shared))
    key = 2 * kv_heads * head_dim * element_size
    sums = 8 if element_size == 8 else 4
    query, partial = heads * head_dim * element_size, heads * (head_dim + 1) * sums
    upstream, gradient = heads * (head_dim + 2) * sums, heads * head_dim * sums
    key_gradient = 2 * kv_heads * head_dim * sums
    sent, received = keys.sum(0) * key, keys.sum(1) * key
    lengths = [layout.starts[rank + 1] - layout.starts[rank] for rank in range(ranks)]

    def numbers(amount: Tensor) -> tuple[int, ...]:
        return tuple(amount.tolist())

    return Traffic(
        lengths=tuple(lengths),
        sent=numbers(sent + keys_down * key + rows_down * query + rows_up * partial),
        received=numbers(received + keys_up * key + rows_up * query + rows_down * partial),
        backward_sent=numbers(
            (sent + received + keys_down * key + keys_up * key_gradient)
            + (rows_down * (query + upstream) + rows_up * gradient)
        ),
        backward_received=numbers(
            (sent + received + keys_up * key + keys_down * key_gradient)
            + (rows_up * (query + upstream) + rows_down * gradient)
        ),
        gathered=tuple((layout.length - own) * key for own in lengths),
    )


def _needed(layout: Layout, rank: int) -> Tensor:
    """Return how many keys of each rank it sends to a rank itself, int64 `(ranks,)`."""
    reach = layout.reach(rank)
    known = overlap(reach.near, reach.far)
    count = _common(layout, reach.near) + _common(layout, reach.far) - _common(layout, known)
    single = reach.columns
    if single.numel() and layout.shared.numel():
        single = single[~torch.isin(single, layout.shared)]
    return count + _owners(layout, single)


def _edges(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many of the tokens of all ranks each rank passes on, and how many come to it.

    They pass through the trees of `exchange.Tree`.

    Args:
        counts: int64 `(ranks,)`, tokens of each rank.
    """
    ranks = counts.numel()
    places = torch.arange(ranks, device="cpu")
    below, above = torch.zeros_like(places), (places > 0).to(torch.int64)
    for bit in range((ranks - 1).bit_length()):
        below += (places % (2 << bit) == 0) & (places + (1 << bit) < ranks)
    down, up = torch.zeros_like(places), torch.zeros_like(places)
    for owner in counts.nonzero().flatten().tolist():
        down += counts[owner] * below.roll(owner)
        up += counts[owner] * above.roll(owner)
    return down, up


def _common(layout: Layout, interval: Interval) -> Tensor:
    """Return how many positions of an interval each rank has."""
    starts = torch.tensor(layout.starts, device="cpu")
    return (starts[1:].clamp(max=interval[1]) - starts[:-1].clamp(min=interval[0])).clamp(min=0)


def _owners(layout: Layout, positions: Tensor) -> Tensor:
    """Return how many of some positions each rank has."""
    starts = torch.tensor(layout.starts, device="cpu")
    return torch.searchsorted(positions, starts).diff()


def _amount(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
