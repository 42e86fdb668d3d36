"""The public function: wrong calls refused at the door, the operator under compile and export."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import sparse_patterns as sp

PATTERN = sp.Window(4, 2, (1, 2)) | sp.Global((0,))


def tensors(length: int = 12, heads: int = 2) -> list[torch.Tensor]:
    """Return `q, k, v`."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, heads, length, 8, generator=generator) for _ in range(3)]


X = torch.zeros(1, 2, 12, 8)
MASK = torch.ones(1, 12, dtype=torch.bool)
BAD = {
    "not a tensor": ({"q": [1]}, TypeError, "q must be a tensor, got list"),
    "rank": ({"k": X[0]}, ValueError, r"k must have shape \(batch, heads, length, head_dim\)"),
    "integers": ({"q": X.long()}, TypeError, "q must be floating point, got torch.int64"),
    "dtypes": ({"v": X.double()}, ValueError, "v must be torch.float32 like q, got torch.float64"),
    "devices": ({"k": X.to("meta")}, ValueError, "k must be on cpu like q, got meta"),
    "batch": (
        {"k": X.expand(2, -1, -1, -1), "v": X.expand(2, -1, -1, -1)},
        ValueError,
        "k must have batch 1",
    ),
    "values": ({"v": X[:, :, :5]}, ValueError, r"v must have the shape of k \(1, 2, 12, 8\)"),
    "heads": (
        {"k": X[:, :1].repeat(1, 3, 1, 1), "v": X[:, :1].repeat(1, 3, 1, 1)},
        ValueError,
        r"divides those of q \(2\), got 3",
    ),
    "name": ({"pattern": "bigbird"}, TypeError, r"must be a Pattern, got 'bigbird'; write sp.get"),
    "layer": ({"layer": 2, "layers": 2}, ValueError, r"layer must be in 0..1 \(layers=2\), got 2"),
    "per layer": (
        {"pattern": sp.PerLayer(sp.Full(), sp.Causal()), "layers": 3},
        ValueError,
        "PerLayer has 2 patterns",
    ),
    "per head": (
        {"pattern": sp.Window((1, 2, 3), 0)},
        ValueError,
        "window left has 3 numbers, one per head: need 2",
    ),
    "dropout": ({"dropout_p": 1.5}, ValueError, "dropout_p must be in 0..1, got 1.5"),
    "key mask type": ({"key_mask": MASK.float()}, TypeError, "key_mask must be bool"),
    "key mask shape": (
        {"key_mask": MASK[:, :5]},
        ValueError,
        r"key_mask must have shape .* got \(1, 5\)",
    ),
    "key mask batch": ({"key_mask": MASK.expand(3, -1)}, ValueError, r"\(1, 12\), got \(3, 12\)"),
    "global mask unused": ({"global_mask": MASK}, ValueError, r"no BatchGlobal\(\) to read it"),
    "segments unused": (
        {"segment_ids": MASK.long()},
        ValueError,
        r"no SameDocument\(\) to read it",
    ),
    "segments missing": ({"pattern": sp.SameDocument()}, ValueError, "segment_ids must be given"),
    "segments type": (
        {"pattern": sp.SameDocument(), "segment_ids": MASK.float()},
        TypeError,
        "segment_ids must be integers",
    ),
    "global qkv": ({"global_qkv": (X, X)}, TypeError, r"global_qkv must be a tuple \(q, k, v\)"),
    "global qkv unused": (
        {"pattern": sp.Causal(), "global_qkv": (X, X, X)},
        ValueError,
        "rows that would use it",
    ),
    "global qkv without rows": (
        {"pattern": sp.Causal() | sp.Global((0,), rows=False), "global_qkv": (X, X, X)},
        ValueError,
        "rows that would use it",
    ),
    "global qkv shape": (
        {"global_qkv": (X[:, :, :5], X, X)},
        ValueError,
        "global_qkv q must be like q",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_calls_are_refused(name: str) -> None:
    fields, kind, message = BAD[name]
    arguments = {"q": X, "k": X, "v": X, "pattern": PATTERN, **fields}
    with pytest.raises(kind, match=message):
        sp.attention(**arguments)


def test_scale_and_lse() -> None:
    q, k, v = tensors()
    mask = sp.dense_mask(PATTERN, 12, heads=2)
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.7)
    out, lse = sp.attention(q, k, v, PATTERN, scale=0.7, return_lse=True)
    torch.testing.assert_close(out, want)
    scores = (q @ k.mT * 0.7).masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(lse, scores.logsumexp(-1))


@pytest.mark.parametrize("kernel", ["tiles", "dense", "sdpa", "auto"])
def test_compiles_without_a_graph_break(kernel: str) -> None:
    def step(q, k, v):
        return sp.attention(q * 2, k, v, PATTERN, kernel=kernel).square().sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (12, 30):
        x, y = tensors(length), tensors(length)
        for inputs, run in ((x, step), (y, compiled)):
            for one in inputs:
                one.requires_grad_()
            run(*inputs).backward()
        for one, other in zip(x, y, strict=True):
            assert torch.equal(one.grad, other.grad)


def test_exports_with_a_dynamic_length() -> None:
    class Model(torch.nn.Module):
        def forward(self, q, k, v):
            return sp.attention(q, k, v, PATTERN, kernel="tiles")

    length = torch.export.Dim("length", min=4, max=4096)
    shapes = [{2: length}] * 3
    program = torch.export.export(Model(), tuple(tensors()), dynamic_shapes=shapes)
    for size in (5, 12, 77):
        inputs = tensors(size)
        assert torch.equal(program.module()(*inputs), Model()(*inputs))


def test_operator_is_registered_in_full() -> None:
    q, k, v = (x.requires_grad_() for x in tensors())
    from sparse_patterns.config.handles import intern

    numbers = (intern(PATTERN), 0, 1, 0, 0.3, 0.0, "tiles", True, None, False)
    arguments = (q, k, v, *[None] * 9, *numbers)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    done = torch.library.opcheck(
        torch.ops.sparse_patterns.attend.default, arguments, test_utils=checks
    )
    assert set(done.values()) == {"SUCCESS"}


def test_the_backward_pass_is_run_by_the_kernel_of_the_forward_pass(monkeypatch) -> None:
    from sparse_patterns.kernels.dispatch import KERNELS

    q, k, v = (x.requires_grad_() for x in tensors())
    out = sp.attention(q, k, v, PATTERN, dropout_p=0.5, kernel="auto")
    wanted = {"dense": "tiles", "tiles": "dense"}
    assert isinstance(out, torch.Tensor)
    ran: list[str] = []
    for name in wanted:
        plain = KERNELS[name].backward
        monkeypatch.setattr(
            KERNELS[name],
            "backward",
            lambda *given, name=name, plain=plain: ran.append(name) or plain(*given),
        )
    # Rates that would make another kernel the choice now.
    (first,) = (
        one.kernel
        for one in sp.explain(PATTERN, q.shape[2], heads=2, dropout_p=0.5).verdicts
        if one.chosen
    )
    monkeypatch.setattr(KERNELS[first], "seconds", lambda request, plan: 1e9)
    out.sum().backward()
    assert ran == [first]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_torch_counts_the_operations_on_visible_pairs(device: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    q, k, v = (x.to(device).requires_grad_() for x in tensors(40))
    plan = sp.plan(PATTERN, 40, heads=2, head_dim=8)
    with FlopCounterMode(display=False) as forward:
        out = sp.attention(q, k, v, PATTERN)
    assert isinstance(out, torch.Tensor)
    assert forward.get_total_flops() == plan.flops > 0
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    assert backward.get_total_flops() == plan.backward_flops


def test_kernels_are_told_whether_gradients_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparse_patterns.kernels.dispatch import KERNELS

    told = []
    plain = KERNELS["tiles"].why_not
    monkeypatch.setattr(
        KERNELS["tiles"],
        "why_not",
        lambda request: told.append(request.needs_grad) or plain(request),
    )
    q, k, v = tensors()
    sp.attention(q, k, v, PATTERN, kernel="tiles")
    assert not any(told)
    told.clear()
    v.requires_grad_()
    sp.attention(q, k, v, PATTERN, kernel="tiles").sum().backward()
    assert told == [True], "the backward pass chooses again"
    told.clear()
    with torch.no_grad():
        sp.attention(q, k, v, PATTERN, kernel="tiles")
    assert not any(told)


def test_rows_of_global_tokens_keep_their_projections_beside_full_attention() -> None:
    x, own = torch.randn(2, 1, 1, 6, 4).double()
    full, near = sp.Full() | sp.Global((0,)), sp.Window(1, 1) | sp.Global((0,))
    assert full != sp.Full()
    out = sp.attention(x, x, x, full, global_qkv=(own, own, own))
    other = sp.attention(x, x, x, near, global_qkv=(own, own, own))
    torch.testing.assert_close(out[:, :, 0], other[:, :, 0], rtol=1e-14, atol=0)
    torch.testing.assert_close(out[:, :, 1:], sp.attention(x, x, x, sp.Full())[:, :, 1:])
    assert sp.Full() | sp.Global((0,), rows=False) == sp.Full()


# The peak of the call itself: what importing took before is reset. Large blocks go back to the
# system when they are freed, so that none hides in what was taken before.
MEMORY = """
import sys, torch
import sparse_patterns as sp
torch.set_num_threads(1)
pattern = sp.Window(64, 64) | sp.Global((0, 9))
def memory(field):
    return int(open("/proc/self/status").read().split(field + ":")[1].split()[0])
def run(length):
    x = torch.randn(1, 1, length, 16, requires_grad=True)
    open("/proc/self/clear_refs", "w").write("5")
    before = memory("VmRSS")
    sp.attention(x, x, x, pattern, kernel="tiles").sum().backward()
    return memory("VmHWM") - before
run(4096)
print(run(int(sys.argv[1])))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the Linux kernel's account of memory")
@pytest.mark.slow
def test_memory_of_tiles_grows_with_the_length() -> None:
    def kibibytes(length: int) -> int:
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(length)],
            env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout)

    assert kibibytes(1 << 18) <= 4.2 * kibibytes(1 << 16)
