"""A compiled training step of a small model: one graph, compiled once, right gradients."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparse_patterns as sp
from benchmarks.gpu_check.place import Place
from benchmarks.gpu_check.records import MISSING, RIGHT, WRONG, Item, Record

PART = "compiled"
SYMBOLS, HEADS, LAYERS, STEPS = 17, 4, 2, 3
TOLERANCE = 5e-2
"""Of the gradients in bfloat16, relative to the largest of each parameter: compiled code rounds in
other places."""


class Model(nn.Module):
    """Two layers of windows that grow with depth, and what a language model has besides.

    Args:
        width: Size of the embeddings.
        kernel: Name of the kernel.
        window: Keys before the query, in the first layer and in the last.
    """

    def __init__(self, width: int, kernel: str, window: tuple[int, int]) -> None:
        super().__init__()
        pattern = sp.Window.before(sp.linear(*window))
        self.embed = nn.Embedding(SYMBOLS, width)
        self.attention = nn.ModuleList(
            sp.SparseSelfAttention(width, HEADS, pattern, layer=layer, layers=LAYERS, kernel=kernel)
            for layer in range(LAYERS)
        )
        self.forward_layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
            for _ in range(LAYERS)
        )
        self.head = nn.Linear(width, SYMBOLS)

    def forward(self, ids: Tensor) -> Tensor:
        """Return scores `(batch, length, symbols)`."""
        x = self.embed(ids)
        for attention, layer in zip(self.attention, self.forward_layers, strict=True):
            x = x + attention(x)
            x = x + layer(x)
        scores: Tensor = self.head(x)
        return scores


def items(place: Place) -> list[Item]:
    """The items of the part."""
    return [Item(kernel, partial(_step, place, kernel)) for kernel in place.kernels]


def gradients(model: nn.Module, ids: Tensor, device: str) -> list[Tensor]:
    """Run a step and return the gradients of all parameters, and the loss in front."""
    model.zero_grad(set_to_none=True)
    with torch.autocast(device, torch.bfloat16):
        scores = model(ids[:, :-1])
        loss = cross_entropy(scores.flatten(0, 1).float(), ids[:, 1:].flatten())
    loss.backward()
    found = [parameter.grad for parameter in model.parameters()]
    assert all(one is not None for one in found)
    return [loss.detach(), *(one for one in found if one is not None)]


def _step(place: Place, kernel: str) -> Iterator[Record]:
    sizes = place.sizes
    width, length = sizes.model_width, sizes.model_length
    window = (length // 16, length // 4)
    pattern = sp.Window.before(window[1])
    told = sp.explain(
        pattern,
        length,
        heads=HEADS,
        head_dim=width // HEADS,
        dtype=torch.bfloat16,
        device=place.device,
        needs_grad=True,
        kernel="auto",
    )
    [verdict] = [one for one in told.verdicts if one.kernel == kernel]
    if verdict.reasons:
        yield Record(PART, kernel, MISSING, "; ".join(verdict.reasons))
        return
    torch.manual_seed(0)
    model = Model(width, kernel, window).to(place.device)
    ids = torch.randint(SYMBOLS, (2, length + 1), device=place.device)
    want = [one.clone() for one in gradients(model, ids, place.device)]
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    compiled = torch.compile(model, fullgraph=True, backend=place.backend)
    begin = time.perf_counter()
    got = gradients(compiled, ids, place.device)
    place.finish()
    first = time.perf_counter() - begin
    graphs = counters["stats"]["unique_graphs"]
    worst = max(
        float((one - other).abs().max() / other.abs().max().clamp(min=1e-6))
        for one, other in zip(got, want, strict=True)
    )
    begin = time.perf_counter()
    for _ in range(STEPS):
        gradients(compiled, ids, place.device)
    place.finish()
    later = (time.perf_counter() - begin) / STEPS
    again = counters["stats"]["unique_graphs"] - graphs
    breaks = sum(counters["graph_break"].values())
    right = not again and not breaks and worst <= TOLERANCE
    figure = (
        f"{graphs} graphs in {first:.1f} s, {again} more in later steps, {breaks} graph breaks, "
        f"gradients within {worst:.2g} of {TOLERANCE:g}, then {later * 1e3:.1f} ms a step"
    )
    numbers = {
        "graphs": graphs,
        "later": again,
        "breaks": breaks,
        "difference": worst,
        "first": first,
        "step": later,
    }
    yield Record(PART, kernel, RIGHT if right else WRONG, figure, numbers)
