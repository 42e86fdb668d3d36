"""Model FLOPs against a count by hand, rates, and peak memory."""

import time

import torch

import sparse_patterns as sp
from lit_modules.metrics.throughput import Speed, peak_memory, training_flops
from lit_modules.nn.decoder.decoder import Decoder


def test_flops_of_a_small_model_by_hand():
    net = Decoder(10, layers=2, heads=2, width=8, feedforward_width=12, pattern=sp.Window.before(1))
    weights = 2 * (8 * 24 + 8 * 8 + 2 * 8 * 12) + 10 * 8
    assert net.matmul_weights == weights
    pairs = 1 + 4 * 2  # Of 5 queries, the first sees itself, the others one more key.
    # Per pair, head and feature: 2 products forward, 5 backward, 2 operations each.
    attention = 2 * (2 + 5) * pairs * 2 * 4 * 2
    got = training_flops(
        net.pattern, batch=3, length=5, layers=2, heads=2, head_dim=4, matmul_weights=weights
    )
    assert got == 3 * (attention + 6 * weights * 5)


def test_keys_in_memory_count():
    shape = dict(batch=1, length=5, layers=1, heads=1, head_dim=1, matmul_weights=0)
    alone = training_flops(sp.Window.before(1), **shape)
    after = training_flops(sp.Window.before(1), memory_lengths=(1,), **shape)
    assert (alone, after) == (9 * 14, 10 * 14)


def test_rates_leave_pauses_out(monkeypatch):
    now = iter([0.0, 2.0, 100.0, 104.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    speed = Speed()
    assert speed.rates() == (0.0, 0.0)
    speed.start()
    speed.stop(60, 6)
    speed.start()  # after a validation
    speed.stop(60, 6)
    assert speed.rates() == (20.0, 2.0)


def test_peak_memory_sees_an_allocation():
    before = peak_memory(torch.device("cpu"))
    assert before > 10 * 2**20
    held = torch.ones(before // 4 + 2**24)  # Four bytes each: more than everything so far.
    assert peak_memory(held.device) > before + 2**25
