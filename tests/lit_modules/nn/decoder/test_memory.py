"""Segment memory: with enough of it, segments are one long pass, and documents stay apart."""

from itertools import pairwise

import pytest
import torch

import sparse_patterns as sp
from lit_modules.nn.decoder.decoder import Decoder
from lit_modules.nn.decoder.memory import SegmentMemory

PATTERNS = {
    "growing": sp.Window.before(sp.linear(3, 9)),
    "dilated": sp.PerHead(sp.Window.before(4), sp.Window.before(5, 3)),
    "layers": sp.PerLayer(sp.Window.before(0), sp.Window.before(20), sp.Window.before(7)),
    "strided": sp.Window.before(12) & (sp.Strided(3) | sp.Window.before(2)),
}


def make(pattern, **fields) -> Decoder:
    return Decoder(13, layers=3, heads=2, width=16, pattern=pattern, **fields).double().eval()


def run(net, memory, ids, continues, restarts=None, tokens=40):
    given = memory.recall(torch.tensor(continues))
    out = net(ids, keep=tokens, restarts=restarts, **given)
    memory.store(out.memory, ids.shape[1], restarts)
    return out.logits


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("length", [pytest.param(1, marks=pytest.mark.long), 5, 8, 40])
def test_segments_equal_one_long_pass(pattern, length):
    net, memory = make(pattern), SegmentMemory()
    ids = torch.randint(13, (2, 80))
    parts = [
        run(net, memory, ids[:, start : start + length], [start > 0] * 2)
        for start in range(0, 80, length)
    ]
    torch.testing.assert_close(torch.cat(parts, 1), net(ids).logits, rtol=0, atol=1e-12)


def test_without_memory_segments_differ_from_one_long_pass():
    net = make(PATTERNS["growing"])
    ids = torch.randint(13, (1, 16))
    alone = net(ids[:, 8:]).logits
    assert not torch.allclose(alone, net(ids).logits[:, 8:], atol=1e-4)


@pytest.mark.parametrize("length", [3, 8])
def test_a_row_that_starts_anew_forgets(length):
    net, memory = make(PATTERNS["dilated"]), SegmentMemory()
    ids = torch.randint(13, (3, 6 * length))
    # Row 0 never stops; row 1 starts anew at segment 2, row 2 at segments 1 and 5.
    starts = [{0}, {0, 2}, {0, 1, 5}]
    parts = []
    for segment in range(6):
        piece = ids[:, segment * length : (segment + 1) * length]
        parts.append(run(net, memory, piece, [segment not in row for row in starts]))
    got = torch.cat(parts, 1)
    for row, of_row in enumerate(starts):
        cuts = [*sorted(of_row), 6]
        for first, last in pairwise(cuts):
            span = slice(first * length, last * length)
            alone = net(ids[row : row + 1, span]).logits[0]
            torch.testing.assert_close(got[row, span], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("positions", ["rotary", "transformer-xl"])
@pytest.mark.parametrize("keys", [False, True], ids=["hidden states", "keys"])
def test_no_token_sees_another_document(positions, keys):
    """Documents begin within segments, at their first token and at that of the whole stream."""
    net = make(sp.Full(), positions=positions)
    ids = torch.randint(13, (2, 24))
    cuts = [[0, 3, 5, 16, 24], [0, 14, 24]]
    restarts = torch.zeros(2, 24, dtype=torch.bool)
    for row, places in enumerate(cuts):
        restarts[row, places[:-1]] = True
    memory, parts = SegmentMemory(), []
    for start in range(0, 24, 8):
        span = slice(start, start + 8)
        given = memory.recall(torch.tensor([start > 0] * 2))
        kept = {"keep_keys": net.memory_lengths(40)} if keys else {"keep": 40}
        out = net(ids[:, span], restarts=restarts[:, span], **kept, **given)
        memory.store(out.memory, 8, restarts[:, span])
        parts.append(out.logits)
    got = torch.cat(parts, 1)
    for row, places in enumerate(cuts):
        for first, last in pairwise(places):
            alone = net(ids[row : row + 1, first:last]).logits[0]
            torch.testing.assert_close(got[row, first:last], alone, rtol=0, atol=1e-12)


def test_a_document_hides_nan_and_takes_no_gradient_from_what_was_before():
    net, memory = make(sp.Full()), SegmentMemory()
    ids = torch.randint(13, (1, 10))
    restarts = torch.zeros(1, 5, dtype=torch.bool)
    restarts[0, 2] = True
    run(net, memory, ids[:, :5], [False])
    memory.load_state_dict(
        {"layers": [[h * torch.nan] for [h] in memory.state_dict()["layers"]], "seen": [5]}
    )
    got = run(net, memory, ids[:, 5:], [True], restarts)
    assert got[:, :2].isnan().all()
    torch.testing.assert_close(got[:, 2:], net(ids[:, 7:]).logits, rtol=0, atol=1e-12)


def test_documents_are_marked_in_one_way():
    net, ids = make(sp.Full()), torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="by segment_ids or by restarts, got both"):
        net(ids, restarts=ids.bool(), segment_ids=ids)


def test_keys_and_values_carry_no_gradient_and_are_those_that_are_seen():
    net, memory = make(PATTERNS["layers"]), SegmentMemory()
    ids = torch.randint(13, (1, 64))
    lengths = net.memory_lengths(15)
    out = net(ids, keep_keys=lengths, **memory.recall(torch.tensor([False])))
    assert [keys.shape[2] for keys, _ in out.memory] == [0, 15, 7]
    assert not any(tensor.requires_grad for pair in out.memory for tensor in pair)
    # A view would keep the whole segment alive.
    assert out.memory[1][0].untyped_storage().nbytes() == 15 * 16 * 8


def test_a_smaller_last_batch_continues_its_rows():
    net, memory = make(PATTERNS["growing"]), SegmentMemory()
    ids = torch.randint(13, (3, 20))
    run(net, memory, ids[:, :10], [False] * 3)
    got = run(net, memory, ids[:2, 10:], [True] * 2)
    torch.testing.assert_close(got, net(ids[:2]).logits[:, 10:], rtol=0, atol=1e-12)


def test_the_state_goes_through_a_checkpoint(tmp_path):
    net, memory = make(PATTERNS["dilated"]), SegmentMemory()
    ids = torch.randint(13, (2, 30))
    run(net, memory, ids[:, :3], [False, False])
    torch.save(memory.state_dict(), tmp_path / "memory.pt")
    expected = run(net, memory, ids[:, 3:], [True, True])
    again = SegmentMemory()
    again.load_state_dict(torch.load(tmp_path / "memory.pt", weights_only=True))
    assert torch.equal(run(net, again, ids[:, 3:], [True, True]), expected)


def test_wider_windows_see_what_is_remembered():
    net, memory = make(sp.Window.before(4)), SegmentMemory()
    ids = torch.randint(13, (1, 40))
    run(net, memory, ids[:, :10], [False])
    net.set_window_scale(3)
    assert net.memory_lengths(40) == (12, 12, 12)
    got = run(net, memory, ids[:, 10:20], [True])
    # Hidden states are projected anew, as far as the wider windows see.
    assert not torch.allclose(got, net(ids[:, :20]).logits[:, 10:])
    assert [hidden.shape[1] for [hidden] in memory.state_dict()["layers"]] == [20, 20, 20]


def test_continuing_nothing_is_refused():
    memory = SegmentMemory()
    with pytest.raises(
        ValueError, match=r"continues is \[True, False\], but the segment before had 0"
    ):
        memory.recall(torch.tensor([True, False]))


def test_learned_positions_allow_no_memory():
    net = Decoder(
        13,
        layers=1,
        heads=2,
        width=16,
        pattern=sp.Window.before(3),
        positions="learned",
        max_length=8,
    )
    with pytest.raises(ValueError, match="memory needs positions by distance"):
        net.memory_lengths(4)
