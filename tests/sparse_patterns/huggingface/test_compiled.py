"""Models are compiled and exported whole: no graph break, the same numbers and gradients."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import sparse_patterns as sp
from sparse_patterns.huggingface import batch_masks, set_pattern
from tests.sparse_patterns.huggingface.models import (
    CAUSAL_MODELS,
    LENGTH,
    MODELS,
    NEAR,
    bert,
    close,
    llama,
    padding,
    some_ids,
)

pytestmark = pytest.mark.usefixtures("one_thread", "compiler")


@pytest.fixture
def compiler() -> None:
    torch._dynamo.reset()


def places() -> Tensor:
    lengths = (9, 5, LENGTH - 14)
    return torch.cat([torch.arange(n) for n in lengths]).expand(3, -1).contiguous()


def documents() -> Tensor:
    return (places() == 0).cumsum(1)


def packed(name: str) -> dict[str, Tensor]:
    given = {"position_ids": places()}
    return given if name in CAUSAL_MODELS else {**given, "seq_idx": documents()}


def marks() -> Tensor:
    found = torch.zeros(3, LENGTH, dtype=torch.bool)
    found[:, 4] = found[1, 12] = True
    return found


CASES: dict[str, tuple[sp.Pattern, Callable[[str], dict[str, Tensor]]]] = {
    "no mask": (NEAR, lambda name: {}),
    "padding": (NEAR, lambda name: {"attention_mask": padding()}),
    "nothing padded": (NEAR, lambda name: {"attention_mask": torch.ones_like(padding())}),
    "documents": (NEAR, packed),
    "documents, by distance": (sp.Window(3, 2), packed),
    "documents, padding allowed": (
        NEAR,
        lambda name: {**packed(name), "attention_mask": torch.ones_like(padding())},
    ),
    "global tokens": (
        sp.Window(2, 2) | sp.BatchGlobal(),
        lambda name: {"global_mask": marks(), "attention_mask": padding()},
    ),
    "segments": (
        NEAR & sp.SameDocument(),
        lambda name: {"segment_ids": documents(), "attention_mask": padding()},
    ),
    "by the length": (
        sp.RandomBlocks(4, 1) | sp.Global((-1,)),
        lambda name: {"attention_mask": padding()},
    ),
}


def trained(model: nn.Module, run: Callable[..., Any], given: dict[str, Any]) -> list[Tensor]:
    model.zero_grad()
    ids = torch.randint(3, 60, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    out = run(input_ids=ids, labels=ids, **given)
    out.loss.backward()
    return [out.logits, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


DAILY = {("bert", "global tokens"), ("llama", "documents, by distance")}


@pytest.mark.parametrize(
    ("name", "backend", "case"),
    [
        pytest.param(name, backend, case, marks=[] if (name, case) in DAILY else pytest.mark.long)
        for name, backend in (("llama", "eager"), ("bert", "aot_eager"))
        for case in CASES
    ],
)
def test_training_is_one_graph_with_the_same_numbers(name: str, backend: str, case: str) -> None:
    pattern, make = CASES[case]
    model = set_pattern(MODELS[name](), pattern).train()
    given: dict[str, Any] = make(name)
    if name in CAUSAL_MODELS:
        given["use_cache"] = False
    wanted = trained(model, model, given)
    got = trained(model, torch.compile(model, fullgraph=True, backend=backend), given)
    for one, other in zip(got, wanted, strict=True):
        close(one, other)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_default_backend() -> None:
    model = set_pattern(bert(), NEAR)
    given = {"attention_mask": padding()}
    got = trained(model, torch.compile(model, fullgraph=True), given)
    for one, other in zip(got, trained(model, model, given), strict=True):
        close(one, other)


def test_another_pattern_and_masks_of_a_batch_are_taken() -> None:
    model = set_pattern(bert(), NEAR)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    ids = some_ids(3)
    close(compiled(ids).logits, model(ids).logits)
    set_pattern(model, sp.Window(1, 1) | sp.BatchGlobal())
    for mask in (marks(), ~marks()):
        with batch_masks(model, global_mask=mask):
            got, wanted = compiled(ids).logits, model(ids).logits
        close(got, wanted)


@pytest.mark.parametrize("kind", ["static", pytest.param("dynamic", marks=pytest.mark.long)])
@pytest.mark.parametrize("padded", [pytest.param(False, marks=pytest.mark.long), True])
@pytest.mark.parametrize("name", ["llama", pytest.param("qwen2", marks=pytest.mark.long)])
def test_generation_does_not_compile_anew_as_the_cache_grows(
    name: str, padded: bool, kind: str
) -> None:
    """One graph for the first token and one for all others, whose sizes are symbols."""
    model = set_pattern(MODELS[name](), NEAR)
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    ids = some_ids(2, 30)
    real = torch.ones_like(ids)
    real[1, :4] = 0 if padded else 1
    steps = [slice(0, 9), *(slice(n, n + 1) for n in range(9, 30))]

    def run(step: Callable[..., Any]) -> tuple[Tensor, list[int]]:
        cache: Any = transformers.DynamicCache(config=model.config)
        if kind == "static":
            cache = transformers.StaticCache(config=model.config, max_cache_len=40)
        found, graphs = [], []
        for tokens in steps:
            given: dict[str, Tensor] = {"position_ids": torch.arange(30)[tokens].expand(2, -1)}
            if padded:
                given["attention_mask"] = real[:, : tokens.stop].clone()
            # The prompt fills the cache once; `generate` does not compile that either.
            one = step if tokens.start else model
            with torch.no_grad():
                found.append(one(ids[:, tokens], cache=cache, **given).logits)
            graphs.append(counter.frame_count)
        return torch.cat(found, 1), graphs

    got, graphs = run(compiled)
    close(got, run(model)[0])
    assert graphs[3] == graphs[-1] <= 2
    if kind == "static" and not padded and name == "llama":
        assert graphs[-1] == 1


def test_what_is_refused_without_compiling_is_refused_when_it_runs() -> None:
    ids = some_ids(3)
    model = set_pattern(llama(), NEAR)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    wrong = documents().roll(3, 1)
    for run in (model, compiled):
        with pytest.raises(ValueError, match="must tell the same documents"):
            run(ids, position_ids=places(), seq_idx=wrong, use_cache=False)
    set_pattern(model, NEAR & sp.SameDocument())
    for run in (model, compiled):
        with pytest.raises(ValueError, match="got no segment_ids"):
            run(ids, use_cache=False)


@pytest.mark.parametrize("padded", [pytest.param(False, marks=pytest.mark.long), True])
@pytest.mark.parametrize(
    "name", ["llama", *(pytest.param(x, marks=pytest.mark.long) for x in ("bert", "modernbert"))]
)
def test_export_with_any_length(name: str, padded: bool) -> None:
    model = set_pattern(MODELS[name](), NEAR)
    length = torch.export.Dim("length", min=4, max=64)
    given: dict[str, Any] = {"input_ids": some_ids(3)}
    shapes: dict[str, Any] = {"input_ids": {1: length}}
    if padded:
        given["attention_mask"], shapes["attention_mask"] = padding(), {1: length}
    if name in CAUSAL_MODELS:
        given["use_cache"], shapes["use_cache"] = False, None
    program = torch.export.export(model, (), given, dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for long in (LENGTH, 13):
        given["input_ids"] = some_ids(3, long)
        if padded:
            given["attention_mask"] = padding()[:, -long:]
        close(
            loaded(**given).logits, model(**given).logits, 3e-6 if name == "modernbert" else 1e-11
        )
