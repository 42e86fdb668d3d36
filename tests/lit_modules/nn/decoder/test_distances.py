"""Positions as a bias by distance: the same with memory, documents and caches as in one pass."""

import pytest
import torch

import sparse_patterns as sp
from lit_modules.nn.decoder.decoder import Decoder

SHAPE = {"layers": 2, "heads": 3, "width": 24}
WINDOW = sp.Window.before(7)


@pytest.mark.parametrize("positions", ["alibi", "t5"])
def test_one_pass_segments_and_steps_agree(positions: str) -> None:
    torch.manual_seed(0)
    net = Decoder(20, pattern=WINDOW, positions=positions, **SHAPE).double().eval()
    if positions == "t5":
        torch.nn.init.normal_(net.distances.weight.weight)
    ids = torch.randint(20, (2, 24))
    whole = net(ids).logits
    first = net(ids[:, :12], keep=12)
    second = net(ids[:, 12:], memory=first.memory)
    torch.testing.assert_close(second.logits, whole[:, 12:])
    with torch.no_grad():
        caches = net.make_caches()
        steps = [net(some, caches=caches).logits for some in ids.split(5, 1)]
    torch.testing.assert_close(torch.cat(steps, 1), whole)
    without = Decoder(20, pattern=WINDOW, positions="rotary", width=24, heads=3, layers=2)
    others = {name: x for name, x in net.state_dict().items() if "distances" not in name}
    without.load_state_dict(others)
    assert (without.double().eval()(ids).logits - whole).abs().max() > 1e-3


def test_the_learned_bias_trains_and_the_other_has_no_parameter() -> None:
    net = Decoder(20, pattern=WINDOW, positions="t5", **SHAPE)
    net(torch.randint(20, (1, 30))).logits.square().sum().backward()
    assert net.distances.weight.weight.grad.abs().max() > 0
    fixed = Decoder(20, pattern=WINDOW, positions="alibi", **SHAPE)
    assert not list(fixed.distances.parameters())
