"""Documents of a packed row, each against a run of its own."""

import pytest
import torch
from torch import Tensor

import sparse_patterns as sp
from sparse_patterns.nn.documents import attend_documents
from tests.packed_patterns import PATTERNS, takes

LENGTHS = [[5, 1, 9, 8], [23], [11, 12]]
LENGTH = 23
DEEP = ("local-global", "longformer-causal")


def inputs() -> list[Tensor]:
    q = torch.randn(len(LENGTHS), 4, LENGTH, 8, dtype=torch.float64)
    k, v = (torch.randn(len(LENGTHS), 2, LENGTH, 8, dtype=torch.float64) for _ in range(2))
    return [q, k, v]


def ids() -> Tensor:
    """Numbers that mean nothing but equality."""
    names = [7, 3, 5, 2]
    rows = [
        torch.cat([torch.full((n,), name) for n, name in zip(row, names, strict=False)])
        for row in LENGTHS
    ]
    return torch.stack(rows)


def stretches() -> list[tuple[int, slice]]:
    found = []
    for example, row in enumerate(LENGTHS):
        start = 0
        for n in row:
            found.append((example, slice(start, start + n)))
            start += n
    return found


def close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def given_to(pattern: sp.Pattern) -> dict[str, Tensor]:
    if not takes(pattern, sp.BatchGlobal):
        return {}
    marks = torch.zeros(len(LENGTHS), LENGTH, dtype=torch.bool)
    marks[:, [0, 6, 17]] = True
    return {"global_mask": marks}


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        # Of two layers the second every day, and both where they differ.
        pytest.param(name, layer, marks=() if layer or name in DEEP else pytest.mark.long)
        for name in PATTERNS
        for layer in (0, 1)
    ],
)
def test_each_document_is_as_if_alone(name: str, layer: int) -> None:
    pattern, qkv = PATTERNS[name], [x.requires_grad_() for x in inputs()]
    where = {"layer": layer, "layers": 2}
    given = given_to(pattern)
    out = attend_documents(*qkv, pattern, ids(), **where, **given)
    weights = torch.randn_like(out)
    grads = torch.autograd.grad((out * weights).sum(), qkv)
    alone = torch.zeros_like(out)
    for example, part in stretches():
        one = slice(example, example + 1)
        own = {key: x[one, part] for key, x in given.items()}
        if takes(pattern, sp.SameDocument):
            own["segment_ids"] = torch.zeros(1, part.stop - part.start, dtype=torch.int64)
        wanted = sp.attention(*(x[one, :, part] for x in qkv), pattern, **where, **own)
        assert isinstance(wanted, Tensor)
        alone = alone.index_put(
            (torch.tensor(example), torch.arange(4)[:, None], torch.arange(LENGTH)[part]),
            wanted[0],
        )
    close(out, alone)
    for grad, wanted_grad in zip(
        grads, torch.autograd.grad((alone * weights).sum(), qkv), strict=True
    ):
        close(grad, wanted_grad)


def test_a_whole_row_with_positions_of_its_own_would_differ() -> None:
    """The test above would pass if positions did not matter."""
    qkv, pattern = inputs(), PATTERNS["sinks"]
    out = attend_documents(*qkv, pattern, ids())
    together = sp.attention(*qkv, pattern & sp.SameDocument(), segment_ids=ids())
    assert isinstance(together, Tensor)
    assert (out - together).abs().max() > 0.1


@pytest.mark.parametrize("name", ["sinks", "from the end", "mistral"])
def test_padding_belongs_to_no_document(name: str) -> None:
    """At the end of a row and of each document, with the number of the document before it."""
    qkv, pattern = inputs(), PATTERNS[name]
    real = torch.ones(len(LENGTHS), LENGTH, dtype=torch.bool)
    for example, part in stretches():
        real[example, part.stop - (part.stop - part.start) // 3 : part.stop] = False
    real[1, :2] = False
    out = attend_documents(*qkv, pattern, ids(), key_mask=real)
    assert not out.transpose(1, 2)[~real].any()
    for example, part in stretches():
        places = torch.arange(LENGTH)[part][real[example, part]]
        alone = sp.attention(*(x[example, :, places][None] for x in qkv), pattern)
        close(out[example, :, places], alone[0])


def test_global_projections_are_those_of_each_document() -> None:
    q, k, v = inputs()
    own = tuple(torch.randn_like(x) for x in (q, k, v))
    pattern = sp.Window(1, 1) | sp.Global((0,))
    out = attend_documents(q, k, v, pattern, ids(), global_qkv=own)
    for example, part in stretches():
        one = slice(example, example + 1)
        q_, k_, v_ = (x[one, :, part] for x in own)
        wanted = sp.attention(
            *(x[one, :, part] for x in (q, k, v)), pattern, global_qkv=(q_, k_, v_)
        )
        close(out[one, :, part], wanted)


def test_segments_within_documents() -> None:
    qkv, segments = inputs(), torch.arange(LENGTH).expand(len(LENGTHS), -1) // 4
    pattern = sp.SameDocument() & sp.Window(5, 5)
    out = attend_documents(*qkv, pattern, ids(), segment_ids=segments)
    for example, part in stretches():
        one = slice(example, example + 1)
        alone = sp.attention(
            *(x[one, :, part] for x in qkv), pattern, segment_ids=segments[one, part]
        )
        close(out[one, :, part], alone)


def test_documents_in_pieces_are_refused_where_positions_count() -> None:
    qkv, pieces = inputs(), torch.arange(LENGTH).expand(len(LENGTHS), -1) // 6 % 2
    attend_documents(*qkv, sp.Window(3, 3), pieces)
    with pytest.raises(ValueError, match=r"one piece.*document 0 of example 0.*position 12"):
        attend_documents(*qkv, PATTERNS["sinks"], pieces)
    with pytest.raises(ValueError, match=r"segment_ids.*no SameDocument"):
        attend_documents(*qkv, PATTERNS["sinks"], ids(), segment_ids=pieces)


@pytest.mark.parametrize("length", [0, 4])
def test_nothing_real_is_zeros(length: int) -> None:
    q, k, v = (torch.randn(2, 2, length, 4) for _ in range(3))
    nothing = torch.zeros(2, length, dtype=torch.bool)
    out = attend_documents(
        q, k, v, sp.LocalBlock(2), torch.zeros(2, length).long(), key_mask=nothing
    )
    assert out.shape == q.shape
    assert not out.any()
