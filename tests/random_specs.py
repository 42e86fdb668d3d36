"""Random specs from the whole algebra, with random contexts to run them in: one seed, one case.

Used by the tests of the oracle and the codec, and by the contract that holds every kernel to the
oracle. A case is a pure function of its seed, so a failure is reproduced by the number alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import sparse_patterns as sp
from sparse_patterns.kernels.base import Request
from sparse_patterns.spec.base import uses


def seeds(count: int, every_day: int) -> list[Any]:
    """Return numbers from 0 to parametrize a test by; those from `every_day` on are `long`."""
    import pytest  # `gpu-check` runs these specs where there is no pytest

    later = (pytest.param(seed, marks=pytest.mark.long) for seed in range(every_day, count))
    return [*range(every_day), *later]


@dataclass(frozen=True)
class Case:
    """A pattern and everything a call of `attention` or `dense_mask` needs.

    Attributes:
        seed: Makes the case again: `random_case(seed)`.
        q_offset: None for the default, `kv_len - q_len`.
        key_mask: bool `(batch, kv_len)` or None.
        global_mask: bool `(batch, kv_len)` or None; only where the pattern reads it.
        segment_ids: int `(batch, kv_len)` or None; always where the pattern reads it.
    """

    seed: int
    pattern: sp.Pattern
    heads: int
    kv_heads: int
    batch: int
    q_len: int
    kv_len: int
    q_offset: int | None
    layer: int
    layers: int
    key_mask: Tensor | None
    global_mask: Tensor | None
    segment_ids: Tensor | None

    def mask_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `dense_mask`, besides pattern and lengths."""
        names = ("heads", "layer", "layers", "q_offset", "key_mask", "global_mask", "segment_ids")
        return {name: getattr(self, name) for name in names}

    def request(self, **fields: Any) -> Request:
        """Return what a call of the case asks a kernel for; `fields` are those of `Request`."""
        return Request(
            pattern=self.pattern,
            layer=self.layer,
            layers=self.layers,
            batch=self.batch,
            heads=self.heads,
            kv_heads=self.kv_heads,
            q_len=self.q_len,
            kv_len=self.kv_len,
            q_offset=self.kv_len - self.q_len if self.q_offset is None else self.q_offset,
            key_mask=self.key_mask is not None,
            global_mask=self.global_mask is not None,
            segment_ids=self.segment_ids is not None,
            **{"needs_grad": True, **fields},
        )

    def __str__(self) -> str:
        given = [
            n for n in ("key_mask", "global_mask", "segment_ids") if getattr(self, n) is not None
        ]
        return (
            f"random_case({self.seed}): {self.pattern!r}, heads={self.heads}/{self.kv_heads}, "
            f"batch={self.batch}, q_len={self.q_len}, kv_len={self.kv_len}, "
            f"q_offset={self.q_offset}, layer={self.layer}/{self.layers}, "
            f"given: {', '.join(given) or 'nothing'}"
        )


def every_third(q: Tensor, k: Tensor, head: int) -> Tensor:
    """See every third key, from the head's number on; the shape is that of `k` alone."""
    return (k - head) % 3 == 0


def mirrored(q: Tensor, k: Tensor, head: int) -> Tensor:
    """See the keys whose sum with the query is a multiple of seven."""
    return (q + k) % 7 == 0


RULES = (every_third, mirrored)


def random_number(rng: random.Random, low: int, high: int, heads: int, layers: int) -> Any:
    """Draw a numeric field: an int, one int per head, a list over layers, or a schedule."""

    def value() -> Any:
        if rng.random() < 0.7:
            return rng.randint(low, high)
        return tuple(rng.randint(low, high) for _ in range(heads))

    kind = rng.random()
    if kind < 0.75:
        return value()
    if kind < 0.78:
        return [value() for _ in range(layers)]
    if kind < 0.81:
        return sp.spread(*(value() for _ in range(rng.randint(1, 4))))
    if kind < 0.86:
        return sp.linear(rng.randint(low, high), rng.randint(low, high))
    if kind < 0.92:
        start = rng.randint(max(low, 1), high)
        return sp.geometric(start, rng.randint(start, high))
    cuts = sorted(rng.sample(range(1, layers), rng.randint(0, layers - 1)))
    counts = [b - a for a, b in zip([0, *cuts], [*cuts, layers], strict=True)]
    return sp.steps(*((value(), count) for count in counts))


def random_atom(rng: random.Random, heads: int, layers: int) -> sp.Pattern:
    """Draw one atom; half of the draws are windows, which matter most."""

    def window() -> sp.Pattern:
        def side() -> Any:
            # Zero sides and sides wider than any sequence are the ones that go wrong.
            if rng.random() < 0.25:
                return rng.choice((0, 0, 1, 500))
            return random_number(rng, 0, 40, heads, layers)

        dilation = 1 if rng.random() < 0.6 else random_number(rng, 1, 5, heads, layers)
        return sp.Window(side(), side(), dilation)

    def tokens() -> sp.Pattern:
        chosen = [rng.choice((0, 0, -1, rng.randint(-30, 250))) for _ in range(rng.randint(0, 5))]
        return sp.Global(tuple(chosen), rows=rng.random() < 0.6)

    def summary() -> sp.Pattern:
        size = rng.randint(1, 40)
        return sp.Summary(size, rng.randint(1, size))

    def table() -> sp.Pattern:
        rows, columns = rng.randint(0, 6), rng.randint(0, 6)

        def layout() -> list[list[bool]]:
            return [[rng.random() < 0.4 for _ in range(columns)] for _ in range(rows)]

        shared = rng.random() < 0.5
        return sp.BlockTable(
            layout() if shared else [layout() for _ in range(heads)], rng.randint(1, 48)
        )

    def grid() -> sp.Pattern:
        shape = tuple(rng.randint(1, side) for side in rng.choice(((150,), (14, 14), (4, 7, 7))))

        def numbers(low: int, high: int) -> Any:
            if rng.random() < 0.8:
                return random_number(rng, low, high, len(shape), layers)
            start, stop = rng.randint(low, high), rng.randint(low, high)
            return (sp.linear(start, stop), *(rng.randint(low, high) for _ in shape[1:]))

        dilation = 1 if rng.random() < 0.6 else numbers(1, 3)
        return sp.GridWindow(shape, numbers(0, 4), dilation, rng.choice((0, 1, rng.randint(0, 40))))

    makers: tuple[tuple[int, Callable[[], sp.Pattern]], ...] = (
        (12, window),
        (3, tokens),
        (3, lambda: sp.BatchGlobal(rows=rng.random() < 0.7)),
        (2, sp.Causal),
        (1, sp.Full),
        (2, lambda: sp.Strided(rng.randint(1, 20))),
        (2, lambda: sp.LocalBlock(rng.randint(1, 70))),
        (2, grid),
        (2, summary),
        (2, lambda: sp.RandomBlocks(rng.randint(1, 40), rng.randint(0, 4), rng.randint(0, 9))),
        (2, table),
        (2, sp.SameDocument),
        (1, lambda: sp.Rule(rng.choice(RULES))),
    )
    weights = [weight for weight, _ in makers]
    return rng.choices([maker for _, maker in makers], weights)[0]()


def random_pattern(rng: random.Random, heads: int, layers: int, depth: int = 3) -> sp.Pattern:
    """Draw a spec of at most `depth` nested operations for a number of heads and layers."""
    if depth == 0 or rng.random() < 0.25:
        return random_atom(rng, heads, layers)

    def part() -> sp.Pattern:
        return random_pattern(rng, heads, layers, depth - 1)

    kind = rng.random()
    if kind < 0.45:
        parts = [part() for _ in range(rng.randint(2, 3))]
        pattern = parts[0]
        for other in parts[1:]:
            pattern = pattern | other
        return pattern
    if kind < 0.70:
        return part() & part()
    if kind < 0.80:
        return ~part()
    if kind < 0.92:
        if rng.random() < 0.2:
            return sp.PerHead(*(part() for _ in range(rng.randint(1, 3))), rest=True)
        groups = rng.choice([n for n in range(1, heads + 1) if heads % n == 0])
        return sp.PerHead(*(part() for _ in range(groups)))
    if rng.random() < 0.5:
        return sp.PerLayer(*(part() for _ in range(layers)))
    return sp.PerLayer(*(part() for _ in range(rng.randint(1, 3))), repeat=True)


def random_length(rng: random.Random) -> int:
    """Draw a length up to 200; the smallest ones and the edges of tiles come often."""
    if rng.random() < 0.3:
        return rng.choice((0, 1, 1, 2, 7, 16, 63, 64, 65, 127, 128, 129))
    return rng.randint(2, 200)


def _key_mask(rng: random.Random, length: int) -> list[bool]:
    """Draw the padding of one example: none, a side, holes, whole windows or everything."""
    keep = [True] * length
    if not length:
        return keep
    kind = rng.choice(("none", "right", "right", "left", "holes", "run", "all"))
    if kind == "right":
        cut = rng.randint(0, length)
        keep[cut:] = [False] * (length - cut)
    elif kind == "left":
        cut = rng.randint(0, length)
        keep[:cut] = [False] * cut
    elif kind == "holes":
        keep = [rng.random() < 0.7 for _ in range(length)]
    elif kind == "run":
        start = rng.randint(0, length)
        stop = min(length, start + rng.randint(1, 120))
        keep[start:stop] = [False] * (stop - start)
    elif kind == "all":
        keep = [False] * length
    return keep


def _global_mask(rng: random.Random, length: int, keep: Sequence[bool] | None) -> list[bool]:
    """Draw the global tokens of one example: often none, and sometimes on padding."""
    marks = [False] * length
    if not length:
        return marks
    for _ in range(rng.choice((0, 0, 1, 2, 5))):
        marks[rng.choice((0, rng.randrange(length)))] = True
    if keep is not None and False in keep and rng.random() < 0.5:
        marks[keep.index(False)] = True
    return marks


def _segment_ids(rng: random.Random, length: int) -> list[int]:
    """Draw the documents of one packed example; a number may come back after another one."""
    ids: list[int] = []
    document = 0
    while len(ids) < length:
        ids += [document] * rng.randint(1, 60)
        document = rng.randint(0, 3) if rng.random() < 0.2 else document + 1
    return ids[:length]


def random_case(seed: int) -> Case:
    """Return the case of a seed."""
    rng = random.Random(seed)
    heads = rng.choice((1, 2, 2, 3, 4, 4, 6))
    kv_heads = rng.choice([n for n in range(1, heads + 1) if heads % n == 0] + [heads] * 3)
    layers = rng.choice((1, 1, 2, 3, 4))
    layer = rng.randrange(layers)
    pattern = random_pattern(rng, heads, layers)
    batch = rng.choice((1, 1, 2, 3))
    kv_len = random_length(rng)
    q_len = kv_len if rng.random() < 0.6 else random_length(rng)
    q_offset = None if rng.random() < 0.75 else rng.randint(-30, kv_len + 30)
    keep = [_key_mask(rng, kv_len) for _ in range(batch)] if rng.random() < 0.5 else None
    marks = ids = None
    if uses(pattern, sp.BatchGlobal) and rng.random() < 0.9:
        marks = [_global_mask(rng, kv_len, keep[b] if keep else None) for b in range(batch)]
    if uses(pattern, sp.SameDocument):
        ids = [_segment_ids(rng, kv_len) for _ in range(batch)]

    def tensor(rows: Any, dtype: torch.dtype) -> Tensor | None:
        return None if rows is None else torch.tensor(rows, dtype=dtype).reshape(batch, kv_len)

    return Case(
        seed,
        pattern,
        heads,
        kv_heads,
        batch,
        q_len,
        kv_len,
        q_offset,
        layer,
        layers,
        key_mask=tensor(keep, torch.bool),
        global_mask=tensor(marks, torch.bool),
        segment_ids=tensor(ids, rng.choice((torch.int64, torch.int32))),
    )
