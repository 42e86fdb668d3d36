"""What the masks of one example add to a plan: parts and factors that are the oracle's mask."""

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.tiles.selection import Selection, select
from sparse_patterns.lowering.tiles.runs import PlanPart
from tests.random_specs import random_case, seeds
from tests.sparse_patterns.kernels.test_masks import call_of


def pairs_of(selection: Selection, part: PlanPart, q_len: int, kv_len: int) -> torch.Tensor:
    """Count how often a part computes each pair as visible, int `(q_len, kv_len)`."""
    found = torch.zeros(q_len, kv_len, dtype=torch.int64)
    for run in part.runs:
        rows, keys = run.query_rows(), run.key_indices()
        rows = rows if part.queries is None else part.queries[rows]
        keys = keys if part.keys is None else part.keys[keys]
        seen = torch.ones(run.tiles, run.rows, run.keys)
        if run.mask is not None:
            seen = seen * run.mask
        for factors in selection.factors(seen.shape, part, run, 0, 0):
            seen = seen * factors
        at = (rows[:, :, None].expand_as(seen), keys[:, None, :].expand_as(seen))
        found.index_put_(at, seen.long(), accumulate=True)
    return found


@pytest.mark.parametrize("seed", seeds(120, every_day=40))
def test_parts_of_random_specs_are_the_mask_of_the_oracle(seed: int) -> None:
    case = random_case(seed)
    call, made = call_of(case)
    want = sp.dense_mask(case.pattern, case.q_len, case.kv_len, **case.mask_arguments())
    want = want.expand(case.batch, case.heads, case.q_len, case.kv_len)
    for group in made.groups:
        for example in range(case.batch):
            selection = select(call, group, example)
            size = (case.q_len, case.kv_len)
            main = sum(
                (pairs_of(selection, part, *size) for part in selection.parts),
                torch.zeros(size, dtype=torch.int64),
            )
            rows = sum(
                (pairs_of(selection, part, *size) for part in selection.row_parts),
                torch.zeros(size, dtype=torch.int64),
            )
            main[selection.overwritten] = rows[selection.overwritten]
            main[selection.padded] = 0
            assert main.numel() == 0 or main.max() <= 1, case
            assert torch.equal(main.bool(), want[example, group.heads[0]]), case
