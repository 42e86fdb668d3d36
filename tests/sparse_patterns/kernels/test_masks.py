"""Masks of several examples at once equal the oracle's, and how many are taken changes nothing."""

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels import dense
from sparse_patterns.kernels.base import Call
from sparse_patterns.kernels.masks import global_rows, pair_mask
from tests.contracts.kernels.holding import request_of
from tests.contracts.kernels.reference import global_rows as expected_rows
from tests.random_specs import Case, random_case, seeds


def call_of(case: Case) -> tuple[Call, sp.Plan]:
    request = request_of(case, torch.float32, "cpu", head_dim=2)
    q = torch.zeros(case.batch, case.heads, case.q_len, 2)
    k = torch.zeros(case.batch, case.kv_heads, case.kv_len, 2)
    masks = (case.key_mask, case.global_mask, case.segment_ids)
    call = Call(request, q, k, k, None, *masks, scale=1.0, seed=0)
    made = sp.plan(
        case.pattern,
        case.q_len,
        case.kv_len,
        heads=case.heads,
        layer=case.layer,
        layers=case.layers,
        q_offset=request.q_offset,
    )
    return call, made


@pytest.mark.parametrize("seed", seeds(150, every_day=30))
def test_masks_of_random_specs_are_those_of_the_oracle(seed: int) -> None:
    case = random_case(seed)
    call, made = call_of(case)
    expected = sp.dense_mask(case.pattern, case.q_len, case.kv_len, **case.mask_arguments())
    expected = expected.expand(case.batch, case.heads, case.q_len, case.kv_len)
    for some in (slice(0, case.batch), slice(case.batch - 1, case.batch)):
        got = pair_mask(call, made, some)
        assert torch.equal(got.expand_as(expected[some]), expected[some]), str(case)


@pytest.mark.parametrize("seed", seeds(150, every_day=30))
def test_rows_of_global_tokens(seed: int) -> None:
    case = random_case(seed)
    call, made = call_of(case)
    context = {
        name: getattr(case, name)
        for name in ("heads", "layer", "layers", "q_offset", "global_mask")
    }
    expected = expected_rows(case.pattern, case.batch, case.q_len, case.kv_len, **context)
    padded = call.examples.padded_rows
    if padded is not None:
        expected &= ~padded[:, None]
    got = global_rows(call, made, slice(0, case.batch))
    assert torch.equal(got.expand_as(expected), expected), str(case)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_how_many_examples_are_taken_at_once_changes_nothing(
    dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = (torch.randn(5, 2, 20, 8, dtype=torch.float64) for _ in range(3))
    marks = torch.rand(5, 20) < 0.2
    outs = []
    for scores in (1, 2 * 2 * 20 * 20, 1 << 18):
        monkeypatch.setattr(dense, "SCORES_AT_ONCE", scores)
        torch.manual_seed(0)
        given = {"global_mask": marks, "dropout_p": dropout, "kernel": "dense"}
        outs.append(sp.attention(q, k, v, sp.get("longformer", window=4), **given))
    for other in outs[1:]:
        torch.testing.assert_close(other, outs[0], rtol=0, atol=1e-14)
