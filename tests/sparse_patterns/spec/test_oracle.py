"""The dense mask of every pattern against its definition, pair by pair."""

import dataclasses
import random

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.spec.base import uses
from tests.definitions import Model, sees
from tests.random_specs import Case, every_third, mirrored, random_case, seeds

ATOMS = [
    sp.Window(0, 0),
    sp.Window(2, 1),
    sp.Window(0, 3),
    sp.Window(3, 0),
    sp.Window(100, 100),
    sp.Window(100, 0),
    sp.Window(2, 2, 3),
    sp.Window(1, 0, 50),
    sp.Window((1, 3), (0, 2), (2, 1)),
    sp.Window(sp.linear(1, 5), 0, [1, (1, 2), 3]),
    sp.Window(sp.steps((1, 1), ((2, 4), 2)), sp.geometric(1, 8)),
    sp.Window(2, 0, sp.spread(1, (3, 2))),
    sp.GridWindow((3, 4), 1),
    sp.GridWindow(9, 2, 2, prefix=2),
    sp.GridWindow((2, 3, 2), (0, 1, sp.linear(1, 0)), [1, (1, 2, 1), 1], prefix=1),
    sp.Causal(),
    sp.Full(),
    sp.Global(()),
    sp.Global((0, 3, -1, 50, -50)),
    sp.Global((1, -2), rows=False),
    sp.BatchGlobal(),
    sp.BatchGlobal(rows=False),
    sp.Strided(1),
    sp.Strided(4),
    sp.LocalBlock(1),
    sp.LocalBlock(4),
    sp.Summary(4, 1),
    sp.Summary(5, 5),
    sp.RandomBlocks(3, 1, 7),
    sp.RandomBlocks(1, 5, -(2**63)),
    sp.RandomBlocks(2, 0),
    sp.RandomBlocks(2, 100),
    sp.BlockTable((), 3),
    sp.BlockTable(("", ""), 3),
    sp.BlockTable(("010", "111"), 3),
    sp.BlockTable((("01", "10"), ("11", "00")), 4),
    sp.SameDocument(),
    sp.Rule(every_third),
    sp.Rule(mirrored),
]
COMPOSITIONS = [
    sp.Window(1, 1) | sp.Global((0,)) | sp.RandomBlocks(2, 1),
    (sp.Window(3, 0) | sp.Strided(4)) & sp.Causal(),
    ~sp.Window(2, 2),
    ~(sp.Causal() & sp.Global((1,))) | sp.SameDocument(),
    sp.Window(4, 4) & ~sp.Window(1, 1) & sp.SameDocument(),
    sp.PerHead(sp.Causal(), sp.Window(1, 1)) | sp.BatchGlobal(),
    sp.PerHead(sp.Window(1, 0), sp.Full(), sp.Causal(), rest=True),
    sp.PerHead(sp.Window((1, 2), 0)),
    sp.PerLayer(sp.Causal(), sp.Full(), ~sp.Full()),
    sp.PerLayer(sp.PerHead(sp.Window(2, 0), sp.Strided(3)), sp.Full(), repeat=True),
]
# Queries, keys, position of query row 0.
SCENES = [
    (0, 0, None),
    (1, 1, None),
    (0, 5, None),
    (5, 0, None),
    (9, 9, None),
    (5, 12, None),
    (12, 5, None),
    (6, 10, 2),
    (9, 9, -4),
    (4, 9, 20),
    (3, 9, -20),
]


def mismatches(case: Case, pairs: int | None = None) -> list[tuple[int, int, int, int]]:
    """Return the (example, head, row, key) where the oracle and the definition differ.

    With `pairs`, only so many of them are looked at, drawn at random.
    """
    mask = sp.dense_mask(case.pattern, case.q_len, case.kv_len, **case.mask_arguments())
    if mask.ndim == 3:
        mask = mask[None]
    examples, heads, q_len, kv_len = mask.shape
    offset = kv_len - q_len if case.q_offset is None else case.q_offset
    count = mask.numel()
    looked_at = range(count)
    if pairs is not None and pairs < count:
        looked_at = random.Random(case.seed).sample(looked_at, pairs)
    seen = mask.flatten()[list(looked_at)].tolist()

    def rows(tensor: torch.Tensor | None, default: object) -> list:
        return [default] * examples if tensor is None else tensor.tolist()

    keep = rows(case.key_mask, [True] * kv_len)
    marks = rows(case.global_mask, [])
    ids = rows(case.segment_ids, [])
    wrong = []
    for place, visible in zip(looked_at, seen, strict=True):
        rest, j = divmod(place, kv_len)
        rest, r = divmod(rest, q_len)
        e, h = divmod(rest, heads)
        tokens = [token for token, marked in enumerate(marks[e]) if marked]
        model = Model(h, heads, kv_len, case.layer, case.layers, tokens, ids[e])
        i = r + offset
        real = keep[e][j] and (keep[e][i] if 0 <= i < kv_len else True)
        if visible != (real and sees(case.pattern, i, j, model)):
            wrong.append((e, h, r, j))
    return wrong


def context(pattern: sp.Pattern, q_len: int, kv_len: int, q_offset: int | None) -> Case:
    """Return a case of two heads, three layers and two examples."""
    rng = random.Random(kv_len)

    def draw(low: int, high: int) -> torch.Tensor:
        numbers = [[rng.randint(low, high) for _ in range(kv_len)] for _ in range(2)]
        return torch.tensor(numbers, dtype=torch.int64).reshape(2, kv_len)

    return Case(
        0,
        pattern,
        heads=2,
        kv_heads=2,
        batch=2,
        q_len=q_len,
        kv_len=kv_len,
        q_offset=q_offset,
        layer=1,
        layers=3,
        key_mask=None,
        global_mask=draw(0, 3) == 0 if uses(pattern, sp.BatchGlobal) else None,
        segment_ids=draw(0, 1) if uses(pattern, sp.SameDocument) else None,
    )


@pytest.mark.parametrize("pattern", ATOMS + COMPOSITIONS, ids=repr)
def test_mask_is_the_definition(pattern: sp.Pattern) -> None:
    for lengths in SCENES:
        case = context(pattern, *lengths)
        for layer in range(3):
            assert mismatches(dataclasses.replace(case, layer=layer)) == [], (lengths, layer)


@pytest.mark.parametrize("lengths", SCENES, ids=str)
def test_padding_hides_keys_and_rows(lengths: tuple[int, int, int | None]) -> None:
    kv_len = lengths[1]
    pattern = sp.Window(2, 2) | sp.BatchGlobal() | sp.Global((0, -1))
    keep = torch.tensor([[j % 3 != 0 for j in range(kv_len)], [False] * kv_len], dtype=torch.bool)
    keep = keep.reshape(2, kv_len)
    assert mismatches(dataclasses.replace(context(pattern, *lengths), key_mask=keep)) == []


@pytest.mark.parametrize("part", seeds(8, every_day=4))
def test_random_specs_are_the_definition(part: int) -> None:
    for seed in range(50 * part, 50 * part + 50):
        case = random_case(seed)
        assert mismatches(case, pairs=150) == [], str(case)


def test_the_definition_can_fail() -> None:
    """A definition that agrees with everything would prove nothing."""
    case = context(sp.Window(2, 1), 9, 9, None)
    mask = sp.dense_mask(sp.Window(2, 2), 9, heads=2)[0]
    models = Model(0, 2, 9)
    assert any(mask[i, j] != sees(case.pattern, i, j, models) for i in range(9) for j in range(9))


def test_a_padded_key_marked_global_is_invisible_and_so_is_its_row() -> None:
    marks = torch.tensor([[True, False, False, True]])
    keep = torch.tensor([[True, True, True, False]])
    mask = sp.dense_mask(sp.BatchGlobal(), 4, heads=1, global_mask=marks, key_mask=keep)
    expected = [[1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert mask[0, 0].int().tolist() == expected


def test_batch_global_without_a_mask_has_no_global_tokens() -> None:
    mask = sp.dense_mask(sp.BatchGlobal() | sp.Window(1, 0), 4, heads=3)
    assert mask.shape == (1, 3, 4, 4)
    assert torch.equal(mask[0], sp.dense_mask(sp.Window(1, 0), 4, heads=3))


def test_a_batch_dimension_comes_with_any_tensor_of_the_batch() -> None:
    assert sp.dense_mask(sp.Causal(), 4, 6, heads=3).shape == (3, 4, 6)
    keep = torch.ones(5, 6, dtype=torch.bool)
    assert sp.dense_mask(sp.Causal(), 4, 6, heads=3, key_mask=keep).shape == (5, 3, 4, 6)
    none = torch.ones(0, 6, dtype=torch.bool)
    assert sp.dense_mask(sp.Causal(), 4, 6, heads=3, key_mask=none).shape == (0, 3, 4, 6)


def test_examples_do_not_depend_on_each_other() -> None:
    pattern = sp.Window(1, 1) | sp.BatchGlobal() & sp.SameDocument()
    marks = torch.tensor([[True, False, False], [False, False, True]])
    ids = torch.tensor([[0, 0, 1], [2, 1, 1]])
    both = sp.dense_mask(pattern, 3, heads=1, global_mask=marks, segment_ids=ids)
    for one in range(2):
        rows = slice(one, one + 1)
        alone = sp.dense_mask(pattern, 3, heads=1, global_mask=marks[rows], segment_ids=ids[rows])
        assert torch.equal(both[rows], alone)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_segment_ids_of_any_integer_type(dtype: torch.dtype) -> None:
    ids = torch.tensor([[3, 3, 1, 3]], dtype=dtype)
    mask = sp.dense_mask(sp.SameDocument(), 4, heads=1, segment_ids=ids)
    expected = [[1, 1, 0, 1], [1, 1, 0, 1], [0, 0, 1, 0], [1, 1, 0, 1]]
    assert mask[0, 0].int().tolist() == expected


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"heads": 0}, ValueError, "heads must be >= 1, got 0"),
        ({"q_len": -1}, ValueError, "q_len must be >= 0, got -1"),
        ({"kv_len": -2}, ValueError, "kv_len must be >= 0, got -2"),
        ({"layer": 3, "layers": 3}, ValueError, r"layer must be in 0\.\.2 \(layers=3\), got 3"),
        ({"layer": -1}, ValueError, r"layer must be in 0\.\.0 \(layers=1\), got -1"),
        ({"layers": 0}, ValueError, "layers must be >= 1, got 0"),
        ({"global_mask": torch.ones(1, 4).bool()}, ValueError, r"no BatchGlobal\(\) to read it"),
        ({"segment_ids": torch.ones(1, 4).int()}, ValueError, r"no SameDocument\(\) to read it"),
        ({"key_mask": torch.ones(1, 4)}, TypeError, "key_mask must be bool .*float32"),
        ({"key_mask": [[True] * 4]}, TypeError, "key_mask must be a tensor, got list"),
        ({"key_mask": torch.ones(4).bool()}, ValueError, r"key_mask must have shape .*got \(4,\)"),
        ({"key_mask": torch.ones(1, 5).bool()}, ValueError, r"\(batch, 4\), got \(1, 5\)"),
    ],
)
def test_wrong_input_is_refused(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sp.dense_mask(sp.Causal(), **{"q_len": 4, "heads": 2, **arguments})


def test_segment_ids_are_required() -> None:
    with pytest.raises(ValueError, match="segment_ids must be given"):
        sp.dense_mask(sp.SameDocument() | sp.Causal(), 4, heads=1)


def test_masks_of_several_batch_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one batch size, got .*'key_mask': 1.*'global_mask': 2"):
        sp.dense_mask(
            sp.BatchGlobal(),
            4,
            heads=1,
            key_mask=torch.ones(1, 4).bool(),
            global_mask=torch.ones(2, 4).bool(),
        )


def test_a_rule_must_return_a_bool_tensor() -> None:
    with pytest.raises(TypeError, match=r"rule 'odd' must return a bool tensor, got .*int64"):
        sp.dense_mask(sp.Rule(lambda q, k, head: q - k, name="odd"), 4, heads=1)
    with pytest.raises(TypeError, match="must return a bool tensor, got True"):
        sp.dense_mask(sp.Rule(lambda q, k, head: True), 4, heads=1)


def test_a_rule_is_told_its_head() -> None:
    mask = sp.dense_mask(sp.Rule(lambda q, k, head: k + 0 * q == head), 3, heads=3)
    assert torch.equal(mask, torch.eye(3).bool()[:, None, :].expand(3, 3, 3))


def test_a_pattern_of_an_unknown_class_points_to_rule() -> None:
    class Mine(sp.Pattern):
        pass

    with pytest.raises(TypeError, match=r"has no definition; write your own as Rule\(fn\)"):
        sp.dense_mask(Mine(), 4, heads=1)


def test_the_device_is_that_of_the_tensors() -> None:
    keep = torch.ones(1, 4, dtype=torch.bool, device="meta")
    assert sp.dense_mask(sp.Causal(), 4, heads=1, key_mask=keep).device.type == "meta"
    assert sp.dense_mask(sp.Causal(), 4, heads=1, device="meta").device.type == "meta"
