"""The decoder as Transformer-XL is that model, restated here from the paper, over several segments.

Dai et al. 2019: memory of hidden states (section 3.2), relative positions (section 3.3), the order
of additions and normalisations of the authors' code.
"""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, gelu, layer_norm, relu

import sparse_patterns as sp
from lit_modules.nn.decoder.decoder import Decoder
from lit_modules.nn.decoder.memory import SegmentMemory
from sparse_patterns.kernels.dispatch import KERNELS

LAYERS, HEADS, WIDTH, VOCABULARY = 2, 2, 12, 7

VARIANTS = {
    "as published": dict(pattern="full", norm="post", activation="relu", feedforward_biases=True),
    "windows": dict(pattern=sp.Window.before(sp.linear(3, 6)), norm="post"),
    "pre-norm": dict(pattern="full", norm="pre"),
    "wide window": dict(pattern=sp.Window.before(40)),
    "dilated": dict(pattern=sp.PerHead(sp.Window.before(2, 3), sp.Window.before(4))),
}


def make(**fields) -> Decoder:
    torch.manual_seed(0)
    sizes = dict(layers=LAYERS, heads=HEADS, width=WIDTH, feedforward_width=16)
    net = Decoder(VOCABULARY, **{**sizes, "positions": "transformer-xl", **fields}).double()
    for parameter in net.parameters():
        # Large enough for every part to count.
        torch.nn.init.normal_(parameter, std=0.4)
    return net


def sinusoid(distance: int) -> list[float]:
    angles = [distance / 10000 ** (i / WIDTH) for i in range(0, WIDTH, 2)]
    return [*map(math.sin, angles), *map(math.cos, angles)]


class Restated:
    """One stream per row, a segment a call, with the matrices of all pairs written out."""

    def __init__(self, net: Decoder, memory: int) -> None:
        self.weights = {n: p.detach().clone().requires_grad_() for n, p in net.named_parameters()}
        self.net, self.memory = net, memory
        self.hidden: list[Tensor] | None = None

    def normalise(self, name: str, x: Tensor) -> Tensor:
        w = self.weights
        return layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"])

    def __call__(self, ids: Tensor) -> Tensor:
        w, post = self.weights, self.net.post_norm
        x = w["embedding.weight"][ids] * (math.sqrt(WIDTH) if post else 1)
        kept = []
        for layer in range(LAYERS):
            name = f"blocks.{layer}"
            old = x[:, :0] if self.hidden is None else self.hidden[layer]
            context = torch.cat((old.detach(), x), 1)
            kept.append(context[:, max(0, context.shape[1] - self.memory) :].detach())
            if post:
                out = self.attend(layer, context, x.shape[1])
                x = self.normalise(f"{name}.attention_norm", x + out)
                x = self.normalise(f"{name}.feedforward_norm", x + self.feed(name, x))
            else:
                normed = self.normalise(f"{name}.attention_norm", context)
                x = x + self.attend(layer, normed, x.shape[1])
                x = x + self.feed(name, self.normalise(f"{name}.feedforward_norm", x))
        self.hidden = kept
        x = x if post else self.normalise("norm", x)
        return x @ w["embedding.weight"].T

    def feed(self, name: str, x: Tensor) -> Tensor:
        w, published = self.weights, f"{name}.feedforward.project_in.bias" in self.weights
        if not published:
            hidden = gelu(x @ w[f"{name}.feedforward.project_in.weight"].T)
            return hidden @ w[f"{name}.feedforward.project_out.weight"].T
        part = f"{name}.feedforward.project"
        hidden = relu(x @ w[f"{part}_in.weight"].T + w[f"{part}_in.bias"])
        return hidden @ w[f"{part}_out.weight"].T + w[f"{part}_out.bias"]

    def attend(self, layer: int, context: Tensor, length: int) -> Tensor:
        w, part = self.weights, f"blocks.{layer}.attention"
        total, size = context.shape[1], WIDTH // HEADS
        to_q, to_k, to_v = w[f"{part}.project_in.weight"].chunk(3)
        q = (context[:, total - length :] @ to_q.T).unflatten(-1, (HEADS, size))
        k = (context @ to_k.T).unflatten(-1, (HEADS, size))
        v = (context @ to_v.T).unflatten(-1, (HEADS, size))
        places = torch.tensor([sinusoid(t) for t in range(total)], dtype=torch.float64)
        r = (places @ w[f"{part}.project_positions.weight"].T).unflatten(-1, (HEADS, size))
        u, bias = w["relative.u"], w["relative.v"]
        shown = sp.dense_mask(
            self.net.pattern, length, total, heads=HEADS, layer=layer, layers=LAYERS
        )
        distance = torch.arange(length)[:, None] + total - length - torch.arange(total)
        content = torch.einsum("bihd,bjhd->bhij", q + u, k)
        position = torch.einsum("bihd,ijhd->bhij", q + bias, r[distance.clamp(min=0)])
        score = (content + position) / math.sqrt(size)
        weights = score.masked_fill(~shown, -math.inf).softmax(-1)
        out = torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2)
        return out @ w[f"{part}.project_out.weight"].T


@pytest.mark.parametrize(
    ("variant", "memory", "kernel"),
    [
        *(("as published", 0, "auto"), ("as published", 3, "auto"), ("pre-norm", 12, "auto")),
        # A kernel that is named computes one product of longer vectors.
        *((variant, 12, "tiles") for variant in ("windows", "dilated")),
        *(
            pytest.param(variant, 12, "tiles", marks=pytest.mark.long)
            for variant in ("as published", "pre-norm", "wide window")
        ),
    ],
)
def test_segments_are_those_of_the_paper_forward_and_gradients(variant, memory, kernel):
    """Weights change between segments: the memory is projected with those of its time."""
    net, held, plain = make(**VARIANTS[variant], kernel=kernel), SegmentMemory(), None
    for segment in range(4):
        ids = torch.randint(VOCABULARY, (2, 6))
        before = plain.hidden if plain is not None else None
        plain = Restated(net, memory)
        plain.hidden = before
        given = held.recall(torch.tensor([segment > 0] * 2)) if memory else {}
        out = net(ids[:, :-1], keep=memory or None, **given)
        if memory:
            held.store(out.memory, 5)
        expected = plain(ids[:, :-1])
        torch.testing.assert_close(out.logits, expected, rtol=0, atol=1e-12)
        losses = [
            cross_entropy(one.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
            for one in (out.logits, expected)
        ]
        net.zero_grad()
        for loss in losses:
            loss.backward()
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(
                parameter.grad, plain.weights[name].grad, rtol=0, atol=1e-11, msg=name
            )
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 0.05 * parameter.grad


@pytest.mark.parametrize("memory", [1, 9])
def test_the_memory_is_of_as_many_tokens_as_it_says(memory):
    net, held = make(**VARIANTS["as published"]), SegmentMemory()
    for segment in range(4):
        out = net(
            torch.randint(VOCABULARY, (1, 4)),
            keep=memory,
            **held.recall(torch.tensor([segment > 0])),
        )
        held.store(out.memory, 4)
        shapes = {tuple(hidden.shape) for hidden in out.memory}
        assert shapes == {(1, min(memory, 4 * (segment + 1)), WIDTH)}
        assert not any(hidden.requires_grad for hidden in out.memory)
        # A view would keep the whole segment alive.
        assert out.memory[0].untyped_storage().nbytes() == out.memory[0].nbytes


@pytest.mark.parametrize("variant", [VARIANTS["as published"], VARIANTS["dilated"]])
def test_keys_and_values_give_the_same_numbers_at_fixed_weights(variant):
    net, hidden, keys = make(**variant).eval(), SegmentMemory(), SegmentMemory()
    for segment in range(4):
        ids, continues = torch.randint(VOCABULARY, (2, 5)), torch.tensor([segment > 0, segment > 1])
        one = net(ids, keep=7, **hidden.recall(continues))
        two = net(ids, keep_keys=net.memory_lengths(7), **keys.recall(continues))
        hidden.store(one.memory, 5)
        keys.store(two.memory, 5)
        torch.testing.assert_close(one.logits, two.logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_that_can_serves_the_positions(kernel):
    """The score is one product of longer vectors: no kernel needs to know of positions."""
    net = make(**VARIANTS["windows"])
    ids = torch.randint(VOCABULARY, (2, 20))
    expected = Restated(net, 0)(ids)
    for block in net.blocks:
        block.attention.kernel = kernel
    try:
        got = net(ids).logits
    except ValueError as error:
        assert f"kernel {kernel!r} cannot serve this call" in str(error)  # noqa: PT017
        pytest.skip(str(error))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_cache_continues_as_one_long_pass():
    net = make(**VARIANTS["windows"]).eval()
    ids = torch.randint(VOCABULARY, (2, 40))
    caches = net.make_caches()
    cuts = [0, 9, 10, 11, 30, 40]
    parts = [net(ids[:, a:b], caches=caches).logits for a, b in pairwise(cuts)]
    torch.testing.assert_close(torch.cat(parts, 1), net(ids).logits, rtol=0, atol=1e-12)
