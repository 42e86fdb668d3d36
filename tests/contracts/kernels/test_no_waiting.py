"""In a step with static patterns nothing makes the CPU wait for the GPU.

The kernels are run on `meta` tensors, which have no values: whatever reads one raises. And no
tensor may be copied to the device, since torch waits for such copies; what a plan needs there is
copied in the first step, and kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import sparse_patterns as sp
from sparse_patterns.kernels import examples, guard
from sparse_patterns.kernels.base import Call, Kernel
from sparse_patterns.kernels.block_sparse.kernel import XformersBlocksKernel
from sparse_patterns.kernels.examples import Examples, examples_of, give
from sparse_patterns.kernels.flex import kernel as flex
from sparse_patterns.kernels.fused.torch_flash import TorchFlashOperator
from sparse_patterns.kernels.global_rows import GlobalRows
from sparse_patterns.lowering.blocks.lists import variant_of
from sparse_patterns.lowering.plan import Plan
from tests.contracts.kernels.cases import make_case
from tests.contracts.kernels.emulated.fused import EmulatedFused
from tests.contracts.kernels.holding import request_of

LENGTH, HEADS, HEAD_DIM = 300, 4, 16
META = torch.device("meta")

READS = ("_local_scalar_dense", "nonzero", "equal", "unique", "masked_select", "is_nonzero")


class Waiting(TorchDispatchMode):
    """Collects what would make the CPU wait: reads of the device, and copies to it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if _is_tensor(x)]
        out = func(*args, **(kwargs or {}))
        made = [x for x in torch.utils._pytree.tree_leaves(out) if _is_tensor(x)]
        name = str(func)
        to_device = any(x.device == META for x in made) and any(_is_there(x) for x in tensors)
        read = any(part in name for part in READS) and any(x.device == META for x in tensors)
        # Releases of torch read the largest index before they add, if not told to leave it.
        read |= "index_put" in name and args[3:4] == (True,) and args[4:5] != (True,)
        if to_device or read:
            self.found.append(name)
        return out


def _is_tensor(x: Any) -> bool:
    return isinstance(x, torch.Tensor)


def _is_there(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and x.ndim > 0


class Emulated(EmulatedFused):
    """The fused kernel on torch's operators, of which `meta` tensors learn the shapes alone."""

    def __init__(self) -> None:
        super().__init__(TorchFlashOperator())


class Flex(flex.FlexKernel):
    """All of the kernel but the compiled function, whose results are made up."""

    def _run(self, function: Any, call: Call, plan: Plan, inputs: Any) -> Any:
        variant = variant_of(call.request.pattern, HEADS, 1, LENGTH)
        assert flex.lists_of(call, plan, variant.uniform).real.device == META
        if function is flex.forward_pass:
            return torch.empty_like(inputs[0]), inputs[0][..., 0].float()
        return tuple(torch.empty_like(x) for x in inputs[:3])


KERNELS: dict[str, Callable[[], Kernel]] = {
    "xformers_fused": Emulated,
    "flex": Flex,
    "xformers_blocks": XformersBlocksKernel,
}
PATTERNS = {
    "window": sp.Window(20, 9),
    "two patterns": sp.Window(20, 20, (1, 1, 2, 2)),
    "globals": sp.Window(20, 20) | sp.Global((0, 7)),
}


def call_of(pattern: sp.Pattern, half: bool = True, **masks: Any) -> Call:
    dtype = torch.bfloat16 if half else torch.float32
    case = make_case(pattern, LENGTH, heads=HEADS, kv_heads=HEADS)
    request = request_of(case, dtype, "cuda", head_dim=HEAD_DIM)
    request = replace(request, **{name: True for name in masks})
    q = torch.empty(2, HEADS, LENGTH, HEAD_DIM, dtype=dtype, device=META)
    given = [masks.get(name) for name in ("key_mask", "global_mask", "segment_ids")]
    return Call(request, q, q, q, None, *given, 0.25, 0)


def step(kernel: Kernel, call: Call) -> None:
    """Run both passes and the guard around them, as two calls of the same tensors."""
    out, lse = guard.forward(kernel, call, call.request.plan)
    guard.backward(kernel, replace(call), call.request.plan, out, lse, out, lse)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What `torch.tensor` is asked to make on the device, which no mode is told of."""
    found: list[object] = []
    plain = torch.tensor

    def tensor(data: Any, **fields: Any) -> torch.Tensor:
        if torch.device(fields.get("device") or "cpu") == META:
            found.append(data)
        return plain(data, **fields)

    monkeypatch.setattr(torch, "tensor", tensor)
    return found


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", [*KERNELS, "xformers_blocks float32"])
def test_nothing_waits_after_the_first_step(name: str, pattern: str, made: list[object]) -> None:
    name, _, dtype = name.partition(" ")
    kernel, half = KERNELS[name](), not dtype
    step(kernel, call_of(PATTERNS[pattern], half))
    made.clear()
    with Waiting() as waiting:
        step(kernel, call_of(PATTERNS[pattern], half))
    assert waiting.found == []
    assert made == []


def test_what_waits_is_found(made: list[object]) -> None:
    x = torch.zeros(3, device=META)
    with Waiting() as waiting:
        torch.zeros(2).to(META)
        x[torch.tensor([0, 2])]
        torch.tensor([1, 2], device=META)
    assert (len(waiting.found), made) == (2, [[1, 2]])
    with Waiting() as waiting, pytest.raises(RuntimeError):
        bool((x > 0).any())
    with Waiting() as waiting:
        x.index_put_((torch.zeros(2, dtype=torch.int64, device=META),), x[:2], accumulate=True)
    assert waiting.found == ["aten.index_put_.default"]


class Away(torch.Tensor):
    """A mask that says that it is on a GPU, and counts how often it is copied from there."""

    copies = 0

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> Away:
        made: Away = torch.Tensor._make_subclass(cls, values)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda")

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        Away.copies += 1
        return self.as_subclass(torch.Tensor).clone()


def test_masks_on_a_gpu_are_copied_once_for_all_layers_and_passes() -> None:
    device = torch.device("cuda")
    shape = (2, 9, 9, 0)

    def found(mask: torch.Tensor) -> Examples:
        give(mask, None, None)
        return examples_of(shape, device, mask, None, None)

    values = torch.ones(2, 9, dtype=torch.bool)
    values[1, 5:] = False
    mask = Away(values)
    Away.copies = 0
    first = found(mask)
    assert Away.copies == 1
    assert all(found(mask) is first for _ in range(24))
    assert Away.copies == 1
    # Another tensor of equal values is compared on the CPU, once; a changed one is another mask.
    other = Away(values.clone())
    assert found(other) is first
    assert found(other) is first
    assert Away.copies == 2
    other[0, 0] = False
    changed = found(other)
    assert changed is not first
    assert changed.on_cpu().key_mask is not None
    assert not changed.on_cpu().key_mask[0, 0]
    assert first.on_cpu().key_mask[0, 0]
    assert found(Away(values | True)).key_mask is None


def test_masks_that_no_caller_gave_are_compared_each_time() -> None:
    """A compiled program may write another mask into the same memory, without a word."""
    give(None, None, None)
    mask = Away(torch.arange(11)[None] < 7)
    Away.copies = 0
    first = examples_of((1, 11, 11, 0), torch.device("cuda"), mask, None, None)
    assert examples_of((1, 11, 11, 0), torch.device("cuda"), mask, None, None) is first
    assert Away.copies == 2
    mask.data[0, 0] = False  # not counted as a change
    assert examples_of((1, 11, 11, 0), torch.device("cuda"), mask, None, None) is not first


def test_tensors_that_stand_for_others_have_no_name() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert examples._name(torch.empty(3, device="cuda")) is examples.UNKNOWN
    assert examples._name(torch.empty(3)) is examples.UNKNOWN
    assert examples._name(None) is None


def test_a_call_gives_its_masks() -> None:
    x, mask = torch.randn(1, 1, 6, 4), torch.arange(6)[None] < 4
    sp.attention(x, x, x, sp.Window(1, 1), key_mask=mask)
    assert examples._given.masks == (mask, None, None)


def test_without_masks_nothing_is_compared() -> None:
    device = torch.device("cuda")
    shape = (2, 30, 30, 0)
    first = examples_of(shape, device, None, None, None)
    with Waiting() as waiting:
        assert examples_of(shape, device, None, None, None) is first
    assert waiting.found == []


def test_rows_of_global_tokens_are_kept_on_the_device() -> None:
    call = call_of(PATTERNS["globals"])
    rows = [GlobalRows(one, call.request.plan).overwritten for one in (call, replace(call))]
    assert rows[0] is rows[1]
    assert rows[0] is not None
    assert rows[0].device == META
