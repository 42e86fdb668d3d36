"""Cases that are hard for kernels, by name."""

from __future__ import annotations

import torch

import sparse_patterns as sp
from tests.random_specs import Case


def make_case(pattern: sp.Pattern, q_len: int, kv_len: int | None = None, **fields) -> Case:
    """Return a case with defaults."""
    defaults = {
        "seed": 0,
        "heads": 4,
        "kv_heads": 2,
        "batch": 2,
        "q_offset": None,
        "layer": 0,
        "layers": 4,
        "key_mask": None,
        "global_mask": None,
        "segment_ids": None,
    }
    kv_len = q_len if kv_len is None else kv_len
    return Case(pattern=pattern, q_len=q_len, kv_len=kv_len, **{**defaults, **fields})


WINDOW = sp.Window(5, 3)
GLOBALS = WINDOW | sp.BatchGlobal()
PADDED = torch.ones(2, 60, dtype=torch.bool)
PADDED[0, 20:45] = False
PADDED[1, :3] = False
HARD = {
    "length 0": make_case(WINDOW, 0),
    "length 1": make_case(WINDOW, 1),
    "length 7": make_case(WINDOW, 7),
    "length 385": make_case(sp.Window(64, 64, (1, 1, 2, 3)) | sp.Global((0,)), 385, batch=1),
    "window 0": make_case(sp.Window(0, 0), 33),
    "wider than the sequence": make_case(sp.Window(500, 700), 33),
    "wide and dilated": make_case(sp.Window(500, 700, 7), 33),
    "only before": make_case(sp.Window(6, 0), 70),
    "only after": make_case(sp.Window(0, 6), 70),
    "batch 0": make_case(WINDOW, 9, batch=0),
    "no keys": make_case(WINDOW, 9, 0),
    "more queries than keys": make_case(sp.Window(5, 90), 80, 20),
    "more keys than queries": make_case(WINDOW | sp.Causal(), 20, 80),
    "offset": make_case(sp.Causal(), 20, 80, q_offset=11),
    "causal, more queries than keys": make_case(sp.Causal(), 80, 60, q_offset=0, key_mask=PADDED),
    "causal, more keys than queries": make_case(sp.Causal(), 40, 60, q_offset=0, key_mask=PADDED),
    "nothing visible": make_case(~sp.Full(), 20),
    "odd heads": make_case(WINDOW, 20, heads=3, kv_heads=1),
}


def marked(length: int, *tokens: int) -> torch.Tensor:
    """Return one row of marks."""
    marks = torch.zeros(length, dtype=torch.bool)
    marks[list(tokens)] = True
    return marks


SOME = torch.stack([marked(60, 0, 30, 59), marked(60)])
HARD |= {
    "a whole window of padding": make_case(WINDOW, 60, key_mask=PADDED),
    "padding marked global": make_case(GLOBALS, 60, key_mask=PADDED, global_mask=SOME),
    "some examples without globals": make_case(GLOBALS, 60, global_mask=SOME),
    "no globals given": make_case(GLOBALS, 60),
    "all padded": make_case(GLOBALS, 60, key_mask=PADDED & False, global_mask=SOME),
    "all keys, padded": make_case(sp.Full(), 60, key_mask=PADDED),
    "causal, padded": make_case(sp.Causal(), 60, key_mask=PADDED),
    "causal, all padded": make_case(sp.Causal(), 60, key_mask=PADDED & False),
    "documents": make_case(
        (sp.Window(9, 9) | sp.Global((0,))) & sp.SameDocument(),
        60,
        segment_ids=torch.arange(60).div(17, rounding_mode="floor").expand(2, 60),
    ),
}
