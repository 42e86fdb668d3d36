"""A training step of the language model is one graph, whichever kernel runs the attention."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

import sparse_patterns as sp
from lit_modules.nn.decoder.decoder import Decoder
from sparse_patterns.kernels.dispatch import KERNELS

PATTERN = sp.Window.before(sp.linear(16, 48), (1, 2))
ON_CUDA = [name for name in sorted(KERNELS) if name not in ("tiles", "dense")]


def step(kernel: str, device: str, backend: str) -> list[torch.Tensor]:
    """Return the gradients of all parameters after one compiled step."""
    net = Decoder(17, pattern=PATTERN, layers=2, heads=2, width=128, kernel=kernel).to(device)
    ids = torch.randint(17, (2, 129), device=device)
    net.compile(fullgraph=True, backend=backend)
    # A GPU's fused kernels take half types; the CPU's are tried as they are.
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        loss = cross_entropy(net(ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    return [parameter.grad for parameter in net.parameters()]


@pytest.mark.cuda
@pytest.mark.parametrize("kernel", ON_CUDA)
@pytest.mark.filterwarnings("default")
def test_no_graph_break_on_cuda(kernel: str) -> None:
    torch._dynamo.reset()
    for grad in step(kernel, "cuda", "inductor"):
        assert grad is not None
        assert bool(grad.isfinite().all())


@pytest.mark.slow
def test_no_graph_break_on_the_cpu() -> None:
    torch._dynamo.reset()
    grads = step("tiles", "cpu", "aot_eager")
    assert all(float(grad.abs().sum()) > 0 for grad in grads)
