"""Generation: equal to full recomputation, in constant memory, by the rules of sampling."""

import pytest
import torch

import sparse_patterns as sp
from lit_modules.generation import generate, sample
from lit_modules.nn.decoder.decoder import Decoder


def make(pattern="longformer-causal", **fields) -> Decoder:
    torch.manual_seed(0)
    net = Decoder(17, layers=3, heads=4, width=32, pattern=pattern, **fields).double()
    # Fresh logits are nearly uniform; wider ones make the choices depend on the context.
    torch.nn.init.normal_(net.norm.weight, std=20.0)
    return net


def tokens_of(net, prompt, count, **sampling) -> torch.Tensor:
    return torch.stack(list(generate(net, prompt, count, **sampling)), dim=1)


PATTERNS = {
    "growing": sp.Window.before(sp.linear(3, 9)),
    "dilated": sp.get("longformer-causal", window=4),
    "sinks": sp.get("streaming", window=5, sinks=2),
    "fixed": sp.get("sparse-transformer-fixed", block=4, columns=1),
    "full": "full",
}


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("positions", ["rotary", pytest.param("learned", marks=pytest.mark.long)])
def test_equals_full_recomputation(pattern, positions):
    net = make(pattern, positions=positions, max_length=40 if positions == "learned" else None)
    prompt = torch.randint(17, (2, 9))
    new = tokens_of(net, prompt, 25, greedy=True)
    ids = prompt
    for _ in range(25):
        ids = torch.cat((ids, net(ids).logits[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(new, ids[:, 9:])
    assert new.unique().numel() > 3


def test_dropout_is_off_and_the_mode_is_left_as_it_was():
    net = make(dropout=0.5).train()
    prompt = torch.randint(17, (1, 5))
    first, second = (tokens_of(net, prompt, 10, greedy=True) for _ in range(2))
    assert torch.equal(first, second)
    assert net.training


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(monkeypatch):
    net = make(sp.get("streaming", window=16, sinks=2))
    made = []
    make_caches = net.make_caches
    monkeypatch.setattr(net, "make_caches", lambda *given: made.extend(make_caches(*given)) or made)
    sizes = []
    for count, _ in enumerate(
        generate(net, torch.zeros(1, 4, dtype=torch.int64), 400, greedy=True)
    ):
        if count in (100, 399):
            sizes.append([cache.nbytes for cache in made])
    assert made[0].position == 4 + 399
    assert sizes[0] == sizes[1]
    # 18 visible keys and what waits for being dropped; keys and values of 32 doubles, and
    # positions.
    assert max(cache.keys_kept for cache in made) < 64


def test_a_seed_makes_it_reproducible():
    net, prompt = make(), torch.randint(17, (2, 5))
    one, same, other = (tokens_of(net, prompt, 40, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_compiled_network_generates_without_compiling():
    net, prompt = make(), torch.randint(17, (1, 5))
    expected = tokens_of(net, prompt, 5, greedy=True)

    def refuse(*_):
        raise AssertionError("compiled")

    net.compile(backend=refuse)
    assert torch.equal(tokens_of(net, prompt, 5, greedy=True), expected)


LOGITS = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()


def shares(**rule) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    drawn = sample(LOGITS.expand(40_000, 4), generator=generator, **rule)
    return (torch.bincount(drawn, minlength=4) / 40_000).tolist()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, [0.4, 0.3, 0.2, 0.1]),
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_k": 9}, [0.4, 0.3, 0.2, 0.1]),
        ({"top_p": 0.65}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.75}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0]),
        ({"temperature": 0.5}, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        ({"temperature": 1e-3}, [1, 0, 0, 0]),
        ({"greedy": True}, [1, 0, 0, 0]),
    ],
)
def test_sampling_follows_its_rules(rule, expected):
    # Four standard deviations of a share near one half.
    assert shares(**rule) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("prompt", "fields", "message"),
    [
        (torch.zeros(1, 0, dtype=torch.int64), {}, r"at least one token, got \(1, 0\)"),
        (torch.zeros(4, dtype=torch.int64), {}, r"shape \(batch, length\) .* got \(4,\)"),
        (torch.tensor([[3, 17]]), {}, r"prompt_ids must be in 0..16, got 3..17"),
        (torch.tensor([[3]]), {"max_new": -1}, "max_new must be >= 0, got -1"),
        (torch.tensor([[3]]), {"temperature": 0.0}, "temperature must be > 0 .* got 0.0"),
        (torch.tensor([[3]]), {"top_k": 0}, "top_k must be >= 1, got 0"),
        (torch.tensor([[3]]), {"top_p": 1.5}, "top_p must be in 0..1 .* got 1.5"),
    ],
)
def test_bad_input_is_refused_at_once(prompt, fields, message):
    with pytest.raises(ValueError, match=message):
        generate(make(), prompt, **{"max_new": 1, **fields})
