"""Bits per unit: exact sums, however the data is cut into batches."""

import math

import torch

from lit_modules.metrics.bits import BitsPerUnit, NatsPerToken


def test_hand_computed():
    metric = BitsPerUnit()
    metric.update(torch.tensor(8 * math.log(2), dtype=torch.float64), 4)  # 2 bits a unit
    metric.update(torch.tensor(math.log(2), dtype=torch.float64), torch.tensor(5))
    assert float(metric.compute()) == 1.0
    loss = NatsPerToken()
    loss.update(torch.tensor(6.0), 4)
    loss.update(torch.tensor(1.0), 1)
    assert abs(float(loss.compute()) - 1.4) < 1e-7


def test_uneven_batches_weigh_by_their_units():
    nats = torch.rand(1000, dtype=torch.float64)
    whole, cut = NatsPerToken(), NatsPerToken()
    whole.update(nats.sum(), 1000)
    for part in nats.split(300):  # 300, 300, 300, 100
        cut.update(part.sum(), len(part))
    assert abs(float(whole.compute()) - float(cut.compute())) < 1e-7


def test_a_billion_tokens_are_not_lost_to_rounding():
    metric = NatsPerToken()
    metric.update(torch.tensor(2.0**30, dtype=torch.float64), 2**30)
    # In float32, 2^30 + 1 is 2^30: a loss of one would stay one however many batches follow.
    for _ in range(64):
        metric.update(torch.tensor(1.0), 0)
    assert float(metric.nats) == 2**30 + 64


def test_casting_the_model_does_not_touch_the_sums():
    model = torch.nn.ModuleDict({"bits": BitsPerUnit()})
    model.bfloat16()
    model["bits"].update(torch.tensor(257.0), 1)
    assert model["bits"].nats.dtype == torch.float64
    assert float(model["bits"].nats) == 257


def test_merging_adds_the_sums():
    one, other = BitsPerUnit(), BitsPerUnit()
    one.update(torch.tensor(math.log(2)), 1)
    other.update(torch.tensor(5 * math.log(2)), 2)
    one.merge_state(other)
    assert abs(float(one.compute()) - 2.0) < 1e-6
