"""FlexAttention without a GPU: the same masks and operators, run uncompiled or only traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.base import Request
from sparse_patterns.kernels.dispatch import KERNELS
from sparse_patterns.kernels.flex import kernel as flex
from sparse_patterns.kernels.flex.kernel import FlexKernel
from sparse_patterns.spec.algebra import has_global_rows
from sparse_patterns.spec.base import Pattern, uses
from tests.contracts.kernels.cases import GLOBALS, HARD, PADDED, SOME, make_case
from tests.contracts.kernels.emulated.flex import EmulatedFlex
from tests.contracts.kernels.holding import hold
from tests.random_specs import random_case, seeds

GROWING = sp.get("longformer-causal", window=sp.linear(16, 128))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs FlexAttention uncompiled: plain torch over all pairs, with the block mask's mask."""
    import torch.nn.attention.flex_attention as library

    monkeypatch.setattr(library, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setitem(KERNELS, "flex", EmulatedFlex(None))


@pytest.mark.usefixtures("eager")
class TestUncompiled:
    """Masks, gradients and global rows are right."""

    @pytest.mark.parametrize("seed", seeds(60, every_day=8))
    def test_random_specs(self, seed: int) -> None:
        case = random_case(seed)
        own = bool(seed % 2) and has_global_rows(case.pattern)
        dtype = torch.float64 if seed % 3 == 0 else torch.float32
        hold("flex", case, dtype, own=own, lse=seed % 4 > 0)

    @pytest.mark.parametrize("name", sp.names())
    def test_presets(self, name: str) -> None:
        pattern = sp.get(name)
        for layer, length, dtype in ((0, 201, torch.float64), (11, 140, torch.bfloat16)):
            marks = torch.zeros(2, length, dtype=torch.bool)
            marks[0, [0, 7, length - 1]] = True
            fields = {"global_mask": marks} if uses(pattern, sp.BatchGlobal) else {}
            hold("flex", make_case(pattern, length, layer=layer, layers=12, **fields), dtype)

    @pytest.mark.parametrize("name", HARD)
    def test_hard_shapes(self, name: str) -> None:
        case = HARD[name]
        hold("flex", case, torch.float64)
        if uses(case.pattern, sp.Global, sp.BatchGlobal):
            hold("flex", case, torch.float64, own=True)

    @pytest.mark.parametrize(
        "length", [*(pytest.param(x, marks=pytest.mark.long) for x in (127, 257)), 128, 129]
    )
    @pytest.mark.parametrize("kept", [1, 64, 128])
    def test_padding_at_the_edges_of_blocks(self, length: int, kept: int) -> None:
        mask = torch.ones(2, length, dtype=torch.bool)
        mask[1, kept:] = False
        hold("flex", make_case(sp.Window(200, 200), length, key_mask=mask), torch.float64)


class Counter:
    """A backend of `torch.compile` that counts the graphs, and runs them uncompiled."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    counts = Counter()
    torch._dynamo.reset()
    monkeypatch.setitem(KERNELS, "flex", EmulatedFlex(counts))
    yield counts
    flex.forget()
    torch._dynamo.reset()


def step(pattern: Pattern, kv_heads: int = 4, device: str = "cpu", **fields: Any) -> None:
    """Run forward and backward of one layer, and compare with the dense kernel."""
    generator = torch.Generator().manual_seed(fields.get("layer", 0))
    found = []
    x = [
        torch.randn(2, heads, 300, 16, generator=generator).to(device)
        for heads in (4, kv_heads, kv_heads)
    ]
    for kernel in ("flex", "dense"):
        leaves = [one.clone().requires_grad_() for one in x]
        out = sp.attention(*leaves, pattern, kernel=kernel, **fields)
        assert isinstance(out, torch.Tensor)
        found.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-5)


@pytest.mark.slow
def test_layers_compile_once(counter: Counter) -> None:
    # Windows grow with depth, two of the heads are dilated in the upper layers.
    for layer in (0, 5, 6, 11):
        step(GROWING, layer=layer, layers=12)
    assert counter.graphs == 2  # forward and backward


@pytest.mark.slow
def test_masks_of_examples_do_not_compile_again(counter: Counter) -> None:
    masks = torch.ones(3, 2, 300, dtype=torch.bool)
    masks[0, 1, 200:] = False
    masks[1, 0, 5:] = False
    for key_mask in masks:
        step(sp.Window(30, 30), key_mask=key_mask)
    assert counter.graphs == 2
    for number in (0, 40):
        marks = torch.zeros(2, 300, dtype=torch.bool)
        marks[0, :number] = True
        step(sp.Window(30, 30) | sp.BatchGlobal(), global_mask=marks)
    assert counter.graphs == 4
    for size in (30, 300):
        ids = torch.arange(300).div(size, rounding_mode="floor").expand(2, 300)
        step(sp.Window(30, 30) & sp.SameDocument(), segment_ids=ids)
    assert counter.graphs == 4


def test_a_graph_that_cannot_be_compiled_is_an_error(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flex, "COMPILATIONS", 1)
    step(sp.Window(3, 3))
    with pytest.raises(Exception, match="fullgraph=True"):
        step(sp.Window(3, 3), kv_heads=1)


def test_the_gradient_passes_through_ahead_of_time_tracing(monkeypatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setitem(KERNELS, "flex", EmulatedFlex("aot_eager"))
    step(GROWING, layer=11, layers=12)
    flex.forget()
    torch._dynamo.reset()


def test_rows_that_are_too_far_apart_are_brought_together() -> None:
    """Torch's kernels find a row in 32 bits."""
    length, heads, size = 131_072, 128, 128
    near = torch.empty(1, length, heads // 2, size, device="meta").transpose(1, 2)
    far = torch.empty(1, length, heads, size, device="meta").transpose(1, 2)
    assert flex._whole(near).stride() == near.stride()
    assert flex._whole(far).is_contiguous()


@pytest.mark.cuda
def test_twelve_layers_compile_once_on_a_gpu() -> None:
    torch._dynamo.reset()
    flex.forget()
    torch._dynamo.utils.counters.clear()
    for layer in range(12):
        step(GROWING, device="cuda", layer=layer, layers=12)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def request(**fields: Any) -> Request:
    plain = {
        "pattern": sp.Window(5, 5),
        "layer": 0,
        "layers": 1,
        "batch": 1,
        "heads": 2,
        "kv_heads": 2,
        "q_len": 64,
        "kv_len": 64,
        "q_offset": 0,
        "head_dim": 64,
        "dtype": torch.bfloat16,
        "device": "cuda",
    }
    return Request(**{**plain, **fields})


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes it look as if there were a GPU, and Triton."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(flex, "find_spec", lambda name: object())


@pytest.mark.usefixtures("complete")
def test_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = FlexKernel()
    assert kernel.why_not(request()) == []
    assert kernel.why_not(request(device="cpu")) == ["runs on CUDA only, not on 'cpu'"]
    assert kernel.why_not(request(dropout_p=0.1)) == [
        "FlexAttention has no dropout; set dropout_p=0"
    ]
    assert kernel.why_not(request(softcap=True, sinks=True, distance_bias=True)) == []
    assert kernel.why_not(request(sinks=True, distance_bias=True, needs_grad=True)) == []
    learned = request(softcap=True, distance_bias=True, needs_grad=True, bias_grad=True)
    assert kernel.why_not(learned) == []
    assert kernel.caveats(request(needs_grad=True)) == []
    [caveat] = kernel.caveats(learned)
    assert caveat == "the gradient of distance_bias differs in its last bits from run to run"
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    [differs] = kernel.why_not(learned)
    assert differs.endswith("torch.use_deterministic_algorithms is on (distance_bias)")
    assert kernel.why_not(request(head_dim=512)) == ["head_dim must be <= 256, got 512"]
    assert "float64 is not one of" in kernel.why_not(request(dtype=torch.float64))[0]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "find_spec", lambda name: None)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    version, device, triton = FlexKernel().why_not(request())
    assert device.startswith("torch 2.9.1+cu128 finds no CUDA device: it takes an NVIDIA GPU")
    assert version == "torch 2.9.1+cu128 is older than 2.10: pip install 'torch>=2.10'"
    assert triton == "triton is not installed: pip install triton"


def test_padding_and_marks_are_held_together(eager: None) -> None:
    hold("flex", make_case(GLOBALS, 60, key_mask=PADDED, global_mask=SOME), torch.float64)
