"""Tensors are made where those of a call are, whatever torch's default device is."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import sparse_patterns as sp
from sparse_patterns.huggingface import set_pattern
from sparse_patterns.nn.documents import attend_documents, positions_in
from sparse_patterns.nn.kv_cache import KeyValueCache
from tests.contracts.kernels.holding import ON_CPU

LENGTH, HEADS = 70, 2
PATTERNS = {
    "window": sp.Window(5, 3, (1, 3)),
    "documents": sp.Window(9, 4) & sp.SameDocument(),
    "global tokens": sp.Window(3, 3) | sp.Global((0, -1)) | sp.BatchGlobal(),
    "blocks": sp.LocalBlock(16) | sp.RandomBlocks(16, 1) | sp.Summary(16, 2),
    "strides": (sp.Strided(7) | sp.Window(2, 0)) & sp.Causal(),
    "a table": sp.BlockTable(("10", "11"), 35) & ~sp.Window(1, 1),
}


@contextlib.contextmanager
def by_context() -> Iterator[None]:
    with torch.device("meta"):
        yield


@contextlib.contextmanager
def by_setting() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


WAYS = {"torch.device": by_context, "set_default_device": by_setting}


def forget() -> None:
    """Have plans and masks made anew."""
    from sparse_patterns.kernels import examples
    from sparse_patterns.lowering import forms, plan
    from sparse_patterns.nn import layouts

    examples._recent.clear()
    layouts._recent.clear()
    plan._plan.cache_clear()
    forms.forms_of.cache_clear()


def twice(run: Callable[[], Any], way: str) -> tuple[Any, Any]:
    """The result without and with another default device, from the same seed."""
    results = []
    for context in (contextlib.nullcontext, WAYS[way]):
        forget()
        torch.manual_seed(0)
        with context():
            results.append(run())
    return results[0], results[1]


def same(run: Callable[[], Any], way: str) -> None:
    wanted, got = twice(run, way)
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)


def masks_of(pattern: sp.Pattern) -> dict[str, Tensor]:
    real = torch.ones(2, LENGTH, dtype=torch.bool, device="cpu")
    real[1, 50:] = False
    marks = torch.zeros(2, LENGTH, dtype=torch.bool, device="cpu")
    marks[:, 11] = True
    documents = (torch.arange(LENGTH, device="cpu") // 30).expand(2, -1)
    given = {"key_mask": real}
    if any(isinstance(part, sp.BatchGlobal) for part in pattern.walk()):
        given["global_mask"] = marks
    if any(isinstance(part, sp.SameDocument) for part in pattern.walk()):
        given["segment_ids"] = documents
    return given


def inputs(length: int = LENGTH) -> list[Tensor]:
    generator = torch.Generator("cpu").manual_seed(0)
    shape = (2, HEADS, length, 16)
    made = [torch.randn(shape, generator=generator, device="cpu") for _ in range(3)]
    return [one.requires_grad_() for one in made]


@pytest.mark.parametrize(
    ("name", "way"),
    [
        pytest.param(
            name,
            way,
            marks=() if name == "window" or way == "set_default_device" else pytest.mark.long,
        )
        for name in PATTERNS
        for way in WAYS
    ],
)
@pytest.mark.parametrize("kernel", ON_CPU)
def test_every_kernel(kernel: str, name: str, way: str) -> None:
    pattern = PATTERNS[name]
    reasons = sp.explain(pattern, LENGTH, heads=HEADS, head_dim=16, needs_grad=True).verdicts
    refused = [one.reasons for one in reasons if one.kernel == kernel]
    if refused[0]:
        pytest.skip(f"{kernel}: {'; '.join(refused[0])}")

    def run() -> list[Tensor]:
        q, k, v = inputs()
        dropout_p = 0.0 if kernel in ("flex", "sdpa") else 0.2
        out = sp.attention(
            q, k, v, pattern, kernel=kernel, dropout_p=dropout_p, **masks_of(pattern)
        )
        out.square().sum().backward()
        return [out, q.grad, k.grad, v.grad]

    same(run, way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PATTERNS)
def test_the_planner_and_the_mask(name: str, way: str) -> None:
    pattern = PATTERNS[name]
    given: dict[str, Any] = {**masks_of(pattern), "device": "cpu"}

    def run() -> list[Any]:
        told = sp.explain(pattern, LENGTH, heads=HEADS)
        mask = sp.dense_mask(pattern, LENGTH, heads=HEADS, **given)
        return [told.plan.visible, told.plan.flops, mask]

    same(run, way)


@pytest.mark.parametrize("way", WAYS)
def test_the_cache(way: str) -> None:
    def run() -> Tensor:
        cache = KeyValueCache((sp.Window(6, 0) | sp.Global((0,))) & sp.Causal(), heads=HEADS)
        pieces = [0, 9, 10, 40, LENGTH]
        q, k, v = (x.detach() for x in inputs())
        outs = [
            cache.attend(*(x[:, :, start:stop] for x in (q, k, v)))
            for start, stop in itertools.pairwise(pieces)
        ]
        cache.reorder(torch.tensor([1, 0], device="cpu"))
        return torch.cat(outs, 2)

    same(run, way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["window", "global tokens", "blocks"])
def test_documents(name: str, way: str) -> None:
    given = masks_of(PATTERNS[name] & sp.SameDocument())
    documents = given.pop("segment_ids")

    def run() -> list[Tensor]:
        out = attend_documents(*inputs(), PATTERNS[name], documents, **given)
        return [out, positions_in(documents)]

    same(run, way)


def bert() -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
    config = transformers.BertConfig(**sizes, num_attention_heads=2, vocab_size=60)
    return transformers.BertForMaskedLM(config).eval()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("padded", [False, True])
def test_a_hugging_face_model(padded: bool, way: str) -> None:
    model = set_pattern(bert(), sp.Window(3, 2) | sp.Global((0,)))
    ids = torch.randint(3, 60, (2, 22), device="cpu")
    real = torch.ones_like(ids)
    real[0, :5] = 0
    places = (torch.arange(22, device="cpu") % 12).expand(2, -1)
    given = {"attention_mask": real} if padded else {"seq_idx": (places == 0).cumsum(1)}

    def run() -> Tensor:
        return model(ids, position_ids=places, **given).logits

    same(run, way)
