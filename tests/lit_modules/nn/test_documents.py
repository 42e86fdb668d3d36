"""Packed rows of our own language and masked models: each document equals a run of its own."""

from typing import Any

import pytest
import torch
from torch import Tensor

import sparse_patterns as sp
from lit_modules.nn.decoder.decoder import Decoder
from lit_modules.nn.encoder.encoder import Encoder, EncoderConfig
from tests.packed_patterns import PATTERNS

LENGTHS = (9, 1, 6, 10)
TOTAL = sum(LENGTHS)
SEGMENTS = torch.repeat_interleave(torch.tensor([4, 0, 9, 2]), torch.tensor(LENGTHS))[None]
PARTS = [
    slice(stop - n, stop)
    for n, stop in zip(LENGTHS, torch.tensor(LENGTHS).cumsum(0).tolist(), strict=True)
]


def close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11)


def every_day(first: str, second: str, names: list[str]) -> list[Any]:
    """Each name with the first way, and a few with the second; the others are `long`."""
    few = ("full", "streaming", "longformer", "per head")
    return [
        pytest.param(name, way, marks=() if way == first or name in few else pytest.mark.long)
        for way in (first, second)
        for name in names
    ]


@pytest.mark.parametrize(
    ("name", "positions"),
    every_day("rotary", "learned", [n for n in PATTERNS if n not in ("rule", "longformer")]),
)
def test_documents_of_a_language_model(name: str, positions: str) -> None:
    net = Decoder(
        30,
        layers=2,
        heads=4,
        width=32,
        pattern=PATTERNS[name] & sp.SameDocument(),
        positions=positions,
        max_length=10 if positions == "learned" else None,
    )
    net = net.double().eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ids = torch.randint(30, (1, TOTAL))
    packed = net(ids, segment_ids=SEGMENTS).logits
    for part in PARTS:
        close(packed[:, part], net(ids[:, part], segment_ids=SEGMENTS[:, part]).logits)


@pytest.mark.parametrize(
    ("name", "kind"), every_day("bert", "roberta", [n for n in PATTERNS if n != "rule"])
)
def test_documents_of_an_encoder(name: str, kind: str) -> None:
    """With padding at the end of the row, in the document before it."""
    pattern, special = PATTERNS[name], kind == "roberta"
    config = EncoderConfig(
        vocabulary_size=40,
        layers=2,
        heads=4,
        width=32,
        feedforward_width=24,
        positions=12,
        dropout=0.0,
        attention_dropout=0.0,
        model_type=kind,
        pad_id=1 if special else 0,
        pattern=pattern,
    )
    encoder = Encoder(config).double().eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ids = torch.randint(2, 40, (1, TOTAL))
    real = torch.ones(1, TOTAL, dtype=torch.bool)
    real[:, -3:] = False
    ids = ids.masked_fill(~real, config.pad_id)
    marks = None
    if any(isinstance(atom, sp.BatchGlobal) for atom in pattern.walk()):
        marks = torch.zeros(1, TOTAL, dtype=torch.bool)
        marks[:, [0, 12]] = True
    packed = encoder(ids, real, marks, SEGMENTS).hidden
    maps = encoder.attention_maps(
        ids, key_mask=real, global_mask=marks, segment_ids=SEGMENTS, layers=range(1)
    )[0]
    for part in PARTS:
        part = slice(part.start, min(part.stop, TOTAL - 3))
        own = None if marks is None else marks[:, part]
        close(packed[:, part], encoder(ids[:, part], None, own, SEGMENTS[:, part]).hidden)
        alone = encoder.attention_maps(
            ids[:, part], global_mask=own, segment_ids=SEGMENTS[:, part], layers=range(1)
        )[0]
        close(maps[:, :, part, part], alone)
        # Nothing outside of the document is seen.
        close(maps[:, :, part].sum(-1), alone.sum(-1))
