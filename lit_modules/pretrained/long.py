"""A short encoder made long (Beltagy et al. 2020, section 5): positions, windows, globals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

import sparse_patterns as sp
from lit_modules.nn.encoder.encoder import Encoder
from lit_modules.pretrained.adapting import adapt
from lit_modules.pretrained.reports import LoadReport, LongReport
from sparse_patterns.spec.binding import bind

__all__ = ["LongCheck", "check_long", "make_long"]

TOLERANCE = 1e-4
"""Largest difference between the hidden states of a short encoder and its long form."""


def make_long(
    encoder: Encoder,
    max_length: int,
    window: int | Sequence[int] = 512,
    *,
    dilation: int | Sequence[int] = 1,
) -> Encoder:
    """Return the encoder as a Longformer for longer texts, its weights kept.

    The positions are repeated until the table is full, the last copy cut; the rows before them are
    kept. Each token sees a window and the global tokens of its example; these have projections of
    their own, which start as independent copies (a Longformer keeps those it has). Positions of a
    BERT become numbered like those of a Longformer, which `transformers` then loads.

    Args:
        encoder: A BERT, RoBERTa or Longformer encoder; not changed.
        max_length: Tokens of the longest text.
        window: Keys seen besides the token itself, half on each side; even; one number or one per
            layer.
        dilation: Distance between neighbouring keys of the window, one number or one per layer.

    Returns:
        The long encoder, with `report` saying what was done.

    Raises:
        ValueError: `max_length` is below that of the encoder, or a window is odd.
    """
    config = encoder.config
    pattern = sp.get("longformer", window=_numbers(window), dilation=_numbers(dilation))
    special = config.pad_id + 1
    long = adapt(
        encoder,
        config.replace(
            positions=special + max_length,
            pattern=pattern,
            global_projections=True,
            model_type="longformer",
        ),
    )
    kept = config.global_projections
    long.report = LongReport(
        source_length=config.max_length,
        max_length=max_length,
        copies=max_length // config.max_length,
        remainder=max_length % config.max_length,
        special=special,
        pattern=repr(pattern),
        global_projections="kept" if kept else "copied from query, key and value",
        loaded=encoder.report if isinstance(encoder.report, LoadReport) else None,
    )
    return long


class LongCheck(NamedTuple):
    """How far a long encoder is from the short one on a text that every window covers.

    Attributes:
        length: Tokens of the text.
        difference: The largest difference of a hidden state.
    """

    length: int
    difference: float


@torch.no_grad()
def check_long(short: Encoder, long: Encoder) -> LongCheck:
    """Compare both encoders on a text of random tokens, with and without a global token.

    The text is as long as every window reaches on each side, so that all tokens see each other.

    Raises:
        ValueError: The hidden states differ by more than `TOLERANCE`.
    """
    length = min(short.config.max_length, long.config.max_length, _reach(short), _reach(long))
    device = next(short.parameters()).device
    generator = torch.Generator().manual_seed(0)
    low, high = short.config.pad_id + 1, short.config.vocabulary_size
    ids = torch.randint(min(low, high - 1), high, (2, length), generator=generator).to(device)
    marks = torch.zeros_like(ids, dtype=torch.bool)
    marks[1, 0] = True
    modes = short.training, long.training
    try:
        # A Longformer's own global tokens have projections that may be trained: both get the marks.
        known = any(isinstance(atom, sp.BatchGlobal) for atom in short.config.spec.walk())
        expected = short.eval()(ids, global_mask=marks if known else None).hidden
        got = long.eval()(ids, global_mask=marks).hidden
    finally:
        short.train(modes[0])
        long.train(modes[1])
    difference = float((expected - got).abs().max())
    if not difference <= TOLERANCE:
        raise ValueError(
            f"the long encoder differs from the short one by {difference:.2g} on {length} tokens; "
            f"allowed is {TOLERANCE:.2g}"
        )
    return LongCheck(length, difference)


def _reach(encoder: Encoder) -> int:
    """Return how long a text may be for every token to see all of it."""
    config = encoder.config
    reach = config.max_length
    for layer in range(config.layers):
        for one in bind(config.spec, heads=config.heads, layer=layer, layers=config.layers):
            parts = one.parts if isinstance(one, sp.Union) else (one,)
            if sp.Full() in parts:
                continue
            windows = [part for part in parts if isinstance(part, sp.Window)]
            sides = [min(w.left, w.right) for w in windows if w.dilation == 1]
            reach = min(reach, 1 + max(sides, default=0))
    return reach


def _numbers(value: int | Sequence[int]) -> int | list[int]:
    return value if isinstance(value, int) else list(value)
