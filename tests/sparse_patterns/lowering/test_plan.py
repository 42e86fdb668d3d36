"""Plans: exact, disjoint, frozen, cached by everything, and no larger than the visible blocks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.lowering.tiles.runs import PlanPart
from sparse_patterns.spec.base import uses
from tests.random_specs import random_case

SPECS = {
    "window": sp.Window(5, 3),
    "dilated": sp.Window(30, 10, 3),
    "globals": sp.Window(5, 3) | sp.Global((0, 17, -1)),
    "causal": sp.Causal(),
    "full": sp.Full(),
    "strided": (sp.Window.before(16) | sp.Strided(16)) & sp.Causal(),
    "fixed": (sp.LocalBlock(32) | sp.Summary(32, 4)) & sp.Causal(),
    "bigbird": sp.get("bigbird", block=16),
    "complement": ~sp.Window(3, 3),
    "table": sp.BlockTable([[1, 0], [0, 1]], 40) & sp.Window(50, 20),
    "nothing": ~sp.Full(),
    "complements of globals": ~(~sp.Global((0, 12)) & ~sp.Global((-1, 3))),
}


def times_seen(parts: tuple[PlanPart, ...], q_len: int, kv_len: int) -> torch.Tensor:
    """Return how many tiles name each pair.

    With the rows of global tokens as their own part has them.
    """
    out = torch.zeros(q_len, kv_len, dtype=torch.int64)
    for part in parts:
        if part.queries is not None:
            out[part.queries] = 0
        for run in part.runs:
            rows, keys = run.query_rows(), run.key_indices()
            rows = rows if part.queries is None else part.queries[rows]
            keys = keys if part.keys is None else part.keys[keys]
            shape = (run.tiles, run.rows, run.keys)
            mask = torch.ones(shape) if run.mask is None else run.mask.expand(shape)
            index = (rows[:, :, None].expand(shape), keys[:, None, :].expand(shape))
            out.index_put_(index, mask.long(), accumulate=True)
    return out


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(
    ("q_len", "kv_len", "offset"),
    [
        (100, 100, None),
        (257, 257, None),
        (33, 200, None),
        (200, 33, None),
        (1, 1, None),
        (9, 90, -3),
    ],
)
def test_parts_name_each_visible_pair_once(name, q_len, kv_len, offset) -> None:
    made = sp.plan(SPECS[name], q_len, kv_len, heads=1, q_offset=offset)
    want = sp.dense_mask(SPECS[name], q_len, kv_len, heads=1, q_offset=offset)[0]
    assert torch.equal(times_seen(made.groups[0].parts, q_len, kv_len), want.long())
    assert made.visible == int(want.sum())


# What the other specs make visible is known at the call only.
STATIC = [
    seed
    for seed in range(200)
    if not uses(random_case(seed).pattern, sp.BatchGlobal, sp.SameDocument)
]


@pytest.mark.parametrize(
    "seed",
    [*STATIC[:40], *(pytest.param(seed, marks=pytest.mark.long) for seed in STATIC[40:])],
)
def test_random_specs_are_exact_and_counted(seed: int) -> None:
    case = random_case(seed)
    fields = {"heads": case.heads, "layer": case.layer, "layers": case.layers}
    made = sp.plan(case.pattern, case.q_len, case.kv_len, q_offset=case.q_offset, **fields)
    want = sp.dense_mask(case.pattern, case.q_len, case.kv_len, q_offset=case.q_offset, **fields)
    for group in made.groups:
        for head in group.heads:
            got = times_seen(group.parts, case.q_len, case.kv_len)
            assert torch.equal(got, want[head].long()), case
    assert made.visible == int(want.sum())
    position = torch.arange(case.q_len)[:, None] + made.q_offset
    distance = (position - torch.arange(case.kv_len)).expand_as(want)[want]
    back = max(0, int(distance.max())) if distance.numel() else 0
    forward = max(0, -int(distance.min())) if distance.numel() else 0
    assert made.receptive_field == (back, forward)


def test_numbers_of_a_window() -> None:
    made = sp.plan(sp.Window(2, 1), 10, heads=3, head_dim=8)
    visible = 3 * (10 * 4 - (2 + 1) - 1)
    assert made.visible == visible
    assert made.density == visible / 300
    assert made.flops == 4 * 8 * visible
    assert made.backward_flops == 10 * 8 * visible
    assert made.receptive_field == (2, 1)
    assert made.bytes(2) * 2 == made.bytes(4) >= 3 * 10 * 8 * 4 * 4


def test_heads_with_one_pattern_share_a_group() -> None:
    made = sp.plan(sp.Window(4, 4, (1, 2, 1, 2)), 64, heads=4)
    assert [group.heads for group in made.groups] == [(0, 2), (1, 3)]
    assert [group.order for group in made.groups] == [(1,), (2,)]


def test_a_window_costs_little_more_than_its_visible_pairs() -> None:
    for dilation in (1, 2, 4):
        made = sp.plan(sp.Window(256, 256, dilation), 4096, heads=1)
        assert made.computed <= 1.25 * made.visible


def test_is_frozen() -> None:
    made = sp.plan(sp.Window(1, 1), 4, heads=1)
    with pytest.raises(FrozenInstanceError):
        made.q_len = 5  # type: ignore[misc]


def test_cache_knows_everything_that_matters() -> None:
    from sparse_patterns.lowering.plan import CACHE_SIZE

    grown = sp.Window(sp.linear(2, 6), 0)
    first = sp.plan(grown, 32, heads=2, layers=3)
    assert sp.plan(grown, 32, heads=2, layers=3) is first
    others = [
        sp.plan(grown, 32, heads=2, layer=1, layers=3),
        sp.plan(grown, 32, heads=2, layers=5),
        sp.plan(grown, 33, heads=2, layers=3),
        sp.plan(grown, 32, 40, heads=2, layers=3),
        sp.plan(grown, 32, heads=2, layers=3, q_offset=1),
        sp.plan(grown, 32, heads=3, layers=3),
        sp.plan(grown, 32, heads=2, head_dim=32, layers=3),
        sp.plan(grown | sp.Global((0,)), 32, heads=2, layers=3),
    ]
    assert len({id(one) for one in [first, *others]}) == 1 + len(others)
    for length in range(CACHE_SIZE):
        sp.plan(sp.Window(1, 1), length, heads=1)
    assert sp.plan(grown, 32, heads=2, layers=3) is not first


@pytest.mark.parametrize(
    "pattern",
    [
        sp.Global((0,)) & sp.BatchGlobal(),
        sp.Global((0, 5)) & ~sp.BatchGlobal(),
        sp.Window(2, 2) & ~sp.SameDocument(),
        sp.Window(2, 2) & (sp.SameDocument() | sp.Causal()) | sp.Global((3,)),
        sp.Window(2, 1) & ~sp.BatchGlobal(),
    ],
    ids=repr,
)
def test_unknown_tensors_are_one_document_and_no_global_token(pattern: sp.Pattern) -> None:
    document = {}
    if uses(pattern, sp.SameDocument):
        document["segment_ids"] = torch.zeros(1, 8, dtype=torch.int64)
    expected = sp.dense_mask(pattern, 8, heads=1, **document)[0, 0]
    made = sp.plan(pattern, 8, heads=1)
    assert made.visible == int(expected.sum())
    distance = (torch.arange(8)[:, None] - torch.arange(8))[expected]
    reach = (max(0, int(distance.max())), max(0, int(-distance.min()))) if len(distance) else (0, 0)
    assert made.receptive_field == reach


MILLION = """
import time
import sparse_patterns as sp
pattern = sp.Window(256, 256) | sp.Global(tuple(range(0, 160_000, 10_000)))
sp.plan(pattern, 4096, heads=12)
def peak():
    return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])
before = peak()
start = time.perf_counter()
made = sp.plan(pattern, 1_000_000, heads=12)
seconds = time.perf_counter() - start
after = peak()
print(seconds, (after - before) / 1024)
"""


@pytest.mark.slow
def test_a_million_tokens_take_little_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MILLION], capture_output=True, text=True, check=True
    )
    _, mebibytes = map(float, done.stdout.split())
    assert mebibytes < 200


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"q_len": -1}, "q_len must be >= 0, got -1"),
        ({"kv_len": -2}, "kv_len must be >= 0, got -2"),
        ({"heads": 0}, "heads must be >= 1, got 0"),
        ({"head_dim": 0}, "head_dim must be >= 1, got 0"),
        ({"layer": 3, "layers": 3}, r"layer must be in 0..2 \(layers=3\), got 3"),
        ({"pattern": "longformer"}, r"pattern must be a Pattern, got 'longformer'; write sp.get"),
    ],
)
def test_wrong_input_is_refused(fields, message) -> None:
    arguments = {"pattern": sp.Window(1, 1), "q_len": 4, "heads": 1, **fields}
    with pytest.raises((TypeError, ValueError), match=message):
        sp.plan(**arguments)


def test_heads_with_other_random_blocks_share_the_rest() -> None:
    made = sp.plan(sp.get("bigbird"), 1024, heads=3)
    shared = [[part for part in group.parts if part.name == "window"] for group in made.groups]
    assert len(shared) == 3
    assert all(len(parts) == len(shared[0]) > 0 for parts in shared)
    for parts in shared[1:]:
        assert all(one is other for one, other in zip(parts, shared[0], strict=True))
