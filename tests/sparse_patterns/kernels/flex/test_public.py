"""FlexAttention through its public function alone, and its backend FLASH, without a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels import dispatch
from sparse_patterns.kernels.dispatch import KERNELS
from sparse_patterns.kernels.flex import kernel as flex
from sparse_patterns.kernels.flex import public
from sparse_patterns.kernels.flex.kernel import FlexFlashKernel
from tests.contracts.kernels.cases import HARD, make_case
from tests.contracts.kernels.emulated.flex import EmulatedFlex
from tests.contracts.kernels.holding import hold
from tests.contracts.kernels.scored import CHANGES, hold_scores
from tests.random_specs import random_case, seeds
from tests.sparse_patterns.kernels.flex.test_kernel import Counter, request


@pytest.fixture
def by_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention uncompiled, with its gradients by autograd, which torch bars on the CPU."""
    import torch.nn.attention.flex_attention as library

    monkeypatch.setattr(library, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(library, "_validate_device", lambda *inputs: None)
    monkeypatch.setattr(public, "version", lambda: (2, 10))
    monkeypatch.setattr(flex, "backward_pass", None)
    monkeypatch.setitem(KERNELS, "flex", EmulatedFlex(None))


@pytest.mark.usefixtures("by_autograd")
@pytest.mark.parametrize("name", ["no keys", "a whole window of padding"])
def test_hard_shapes(name: str) -> None:
    hold("flex", HARD[name], torch.float64)


@pytest.mark.usefixtures("by_autograd")
@pytest.mark.parametrize("own", [False, True])
def test_rows_of_global_tokens_give_their_own_gradients(own: bool) -> None:
    pattern = sp.Window(9, 9) | sp.Global((0, 50))
    hold("flex", make_case(pattern, 97), torch.float64, own=own)
    if own:
        hold("flex", make_case(pattern, 97), torch.bfloat16, lse=False)


@pytest.mark.usefixtures("by_autograd")
@pytest.mark.parametrize("seed", seeds(40, every_day=2))
def test_random_specs(seed: int) -> None:
    hold("flex", random_case(seed), torch.float64, lse=seed % 2 > 0)


@pytest.mark.usefixtures("by_autograd")
@pytest.mark.parametrize(
    ("names", "own"),
    [
        (("sinks",), False),
        (CHANGES, True),
        pytest.param(("sinks",), True, marks=pytest.mark.long),
        pytest.param(CHANGES, False, marks=pytest.mark.long),
    ],
)
def test_changed_scores_give_their_gradients(names: tuple[str, ...], own: bool) -> None:
    case = make_case(sp.Window(9, 9) | sp.Global((0, 50)), 97)
    hold_scores("flex", case, names, own=own, learned_bias=False)
    hold_scores("flex", HARD["a whole window of padding"], names, learned_bias=False)


@pytest.mark.parametrize(
    ("version", "backend"),
    [((2, 13), "count"), pytest.param((2, 10), "aot_eager", marks=pytest.mark.long)],
)
def test_a_compiled_model_learns_its_bias_and_has_a_cap(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], backend: str
) -> None:
    """By any torch, also by one that calls the backward operator where scores are plain."""
    import torch.nn.attention.flex_attention as library

    torch._dynamo.reset()
    counter = Counter()
    monkeypatch.setattr(library, "_validate_device", lambda *inputs: None)
    monkeypatch.setattr(public, "version", lambda: version)
    kernel = EmulatedFlex(counter if backend == "count" else backend)
    monkeypatch.setitem(KERNELS, "flex", kernel)
    case = make_case(sp.Window(9, 9) | sp.Global((0, 50)), 97)
    try:
        for own in (False, True):
            hold_scores("flex", case, CHANGES, torch.float32, own=own)
        assert counter.graphs == (2 if backend == "count" else 0)
    finally:
        flex.forget()
        torch._dynamo.reset()


def test_autograd_records_inside_an_operator() -> None:
    found = []

    @torch.library.custom_op("sparse_patterns_tests::square", mutates_args=())
    def square(x: torch.Tensor) -> torch.Tensor:
        def forward(leaves: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            q, k, v = leaves
            return q * q + k * v, q * 2

        ones = torch.ones_like(x)
        found.append(public.gradients(forward, (x, x, x), (), (ones, ones)))
        found.append(public.gradients(forward, (x, x, x), (), (ones, None)))
        return x * x

    x = torch.tensor([3.0])
    with torch.no_grad():
        square(x)
    assert [[float(grad) for grad in grads] for grads in found] == [[8, 3, 3], [6, 3, 3]]


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The kernel on the CPU; torch's function runs there on its own backend, and is listened to."""
    import torch.nn.attention.flex_attention as library

    class Emulated(EmulatedFlex):
        name = "flex_flash"
        by_name_only = True
        flash = True

    asked: list[dict[str, Any]] = []
    plain = library.flex_attention

    def listening(*args: Any, **fields: Any) -> Any:
        asked.append(dict(fields["kernel_options"]))
        assert fields["block_mask"].mask_mod is not library.noop_mask
        return plain(*args, **{**fields, "kernel_options": None})

    monkeypatch.setattr(library, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(library, "_validate_device", lambda *inputs: None)
    monkeypatch.setattr(library, "flex_attention", listening)
    monkeypatch.setitem(KERNELS, "flex_flash", Emulated(None))
    return asked


def test_the_backend_flash_is_asked_in_both_passes(flash: list[dict[str, Any]]) -> None:
    hold("flex_flash", make_case(sp.Window(9, 5), 140), torch.float64, lse=False)
    assert flash == [{"BACKEND": "FLASH"}] * 2
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    _, lse = sp.attention(x, x, x, sp.Window(1, 1), kernel="flex_flash", return_lse=True)
    with pytest.raises(ValueError, match="takes no gradient of the log-sum-exp; use kernel='flex'"):
        lse.sum().backward()
    # Sinks weigh the output by the log-sum-exp.
    out = sp.attention(x, x, x, sp.Window(1, 1), kernel="flex_flash", sinks=torch.zeros(2))
    assert isinstance(out, torch.Tensor)
    with pytest.raises(ValueError, match="takes no gradient of the log-sum-exp"):
        out.sum().backward()


def test_flash_is_never_chosen_unless_named(flash: list[dict[str, Any]]) -> None:
    x = torch.randn(1, 2, 300, 8)
    sp.attention(x, x, x, sp.Window(1, 1))
    assert flash == []
    assert sp.explain(sp.Window(1, 1), 300, heads=2).chosen != "flex_flash"
    # Nor is it measured.
    assert "flex_flash" not in dispatch._able(request(device="cpu"))
    assert sp.explain(sp.Window(1, 1), 300, heads=2, kernel="flex_flash").chosen == "flex_flash"


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes it look as if there were an H100 with everything installed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(flex, "find_spec", lambda name: object())
    monkeypatch.setattr(public, "find_spec", lambda name: object())


@pytest.mark.usefixtures("hopper")
def test_reasons_against_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = FlexFlashKernel()
    assert kernel.why_not(request()) == []
    assert any("head_dim must be <= 128" in why for why in kernel.why_not(request(head_dim=160)))
    [dtype] = kernel.why_not(request(dtype=torch.float32))
    assert dtype == "FlashAttention 4 takes bfloat16 and float16, not torch.float32"
    [changed] = kernel.why_not(request(softcap=True, distance_bias=True))
    assert changed == "changed scores are left to the kernel flex (softcap, distance_bias)"
    assert kernel.why_not(request(sinks=True)) == []
    [sinks] = kernel.why_not(request(sinks=True, needs_grad=True))
    assert "the log-sum-exp has no gradient in the backend FLASH" in sinks
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (10, 0))
    [card] = kernel.why_not(request())
    assert "compute capability 10.0" in card
    assert "pytorch#195563" in card
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch, "__version__", "2.11.0+cu130")
    [old] = kernel.why_not(request())
    assert "torch 2.11.0+cu130 has no backend FLASH" in old
    monkeypatch.setattr(torch, "__version__", "2.13.0")

    def absent(name: str) -> object:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(public, "find_spec", absent)
    [package] = kernel.why_not(request())
    assert package.endswith("is not installed: pip install --pre flash-attn-4")


@pytest.mark.long
def test_a_compiled_forward_pass_serves_autograd_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.nn.attention.flex_attention as library

    torch._dynamo.reset()
    counter = Counter()
    monkeypatch.setattr(library, "_validate_device", lambda *inputs: None)
    monkeypatch.setattr(public, "version", lambda: (2, 10))
    monkeypatch.setitem(KERNELS, "flex", EmulatedFlex(counter))
    try:
        for layer in range(3):
            case = make_case(sp.Window(sp.linear(3, 30), 2), 140, layer=layer, layers=3)
            hold("flex", case, torch.float32)
        assert counter.graphs == 2  # without gradients, and with them
    finally:
        flex.forget()
        torch._dynamo.reset()
