"""Queries that see intervals of distances, counted in steps of a dilation: numbers, not lists.

With a dilation of `d` the queries fall into `d` residues, each of which sees a plain window of keys
of its own. Residues that differ by nothing but where they start are one `Residues`: there are at
most four, whatever the lengths and the dilation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sparse_patterns.lowering.normal_form import Conjunct


@dataclass(frozen=True)
class Residues:
    """Neighbouring residues that see alike.

    Query `s` of the first residue is query row `first_query + s * dilation`, and its key `t` is key
    `first_key + t * dilation`; each next residue starts one query row and one key later. Query `s`
    sees the keys from `origin + s - left` to `origin + s + right`, as far as there are such.

    Attributes:
        first_query: Query row of query 0.
        first_key: Key of key 0.
        count: Number of residues.
        queries: Queries of each.
        keys: Keys of each.
        origin: Which key is at the position of query 0; negative or beyond the last for none.
        left: Keys seen before the own position; negative where keys must lie after it.
        right: Keys seen after it; negative where keys must lie before it.
    """

    first_query: int
    first_key: int
    count: int
    queries: int
    keys: int
    origin: int
    left: int
    right: int

    def seeing(self, start: int, stop: int) -> range:
        """Return those queries from `start` up to `stop` that see a key."""
        if self.left + self.right < 0 or not self.keys:
            return range(0)
        first = max(start, -self.right - self.origin)
        return range(first, max(first, min(stop, self.keys + self.left - self.origin)))

    def span(self, seeing: range) -> tuple[int, int]:
        """Return the first and the last key that some queries see, each of which sees one."""
        first = max(0, self.origin + seeing.start - self.left)
        return first, min(self.keys - 1, self.origin + seeing.stop - 1 + self.right)

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key that it sees, over all residues."""
        seeing = self.seeing(0, self.queries)
        first, last = self.origin + seeing.start, self.origin + seeing.stop - 1
        ends = _total(first + self.right, last + self.right, most=self.keys - 1)
        starts = -_total(self.left - last, self.left - first, most=0)
        return self.count * (ends - starts + len(seeing))


def _total(first: int, last: int, most: int) -> int:
    """Return the sum of the numbers from `first` to `last`, none counted as more than `most`."""
    middle = min(last, most)
    below = (first + middle) * (middle - first + 1) // 2 if middle >= first else 0
    return below + most * max(0, last - max(first - 1, most))


def residues(conjunct: Conjunct, q_len: int, kv_len: int, q_offset: int) -> Iterator[Residues]:
    """Yield the residues of a conjunct's distances and dilation; all else that it says is left out.

    Args:
        conjunct: The conjunct.
        q_len: Number of queries.
        kv_len: Number of keys.
        q_offset: Position of query row 0.
    """
    step = conjunct.dilation
    stop = min(step, q_len)
    # Where the number of queries, the own position and the number of keys change.
    cuts = {0, q_len % step, -q_offset % step, (kv_len - q_offset) % step}
    starts = sorted(cut for cut in cuts if cut < stop)
    for first, after in zip(starts, [*starts[1:], stop], strict=True):
        origin, first_key = divmod(first + q_offset, step)
        yield Residues(
            first_query=first,
            first_key=first_key,
            count=after - first,
            queries=-(-(q_len - first) // step),
            keys=max(0, -(-(kv_len - first_key) // step)),
            origin=origin,
            left=conjunct.left // step,
            right=conjunct.right // step,
        )
