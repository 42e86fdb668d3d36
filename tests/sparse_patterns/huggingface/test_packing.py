"""Rows of several documents in models of `transformers`, each document against a run of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import sparse_patterns as sp
from sparse_patterns.huggingface.attach import set_pattern
from sparse_patterns.huggingface.masks import CAUSAL, ModelMask
from sparse_patterns.huggingface.packing import documents_in
from tests.packed_patterns import PATTERNS, takes
from tests.sparse_patterns.huggingface.models import (
    CAUSAL_MODELS,
    SMALL,
    TOLERANCE,
    bert,
    close,
    finish,
    llama,
    modernbert,
    roberta,
    some_ids,
)

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTHS = (9, 1, 6, 10)
TOTAL = sum(LENGTHS)


def llama4() -> nn.Module:
    """With chunks, which start over in each document too."""
    config = transformers.Llama4TextConfig(
        **SMALL,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size_mlp=40,
        num_local_experts=2,
        attention_chunk_size=4,
        layer_types=["chunked_attention", "full_attention", "chunked_attention"],
        no_rope_layers=[1, 1, 1],
        attn_temperature_tuning=False,
        use_qk_norm=False,
    )
    return finish(transformers.Llama4ForCausalLM(config))


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        n_embd=32, n_layer=3, n_head=4, vocab_size=60, n_positions=32, n_inner=40
    )
    return finish(transformers.GPT2LMHeadModel(config))


DECODERS: dict[str, Callable[[], nn.Module]] = {**CAUSAL_MODELS, "gpt2": gpt2}
ENCODERS = {"roberta": roberta, "bert": bert, "modernbert": modernbert}


def flat(first: int = 0, lengths: tuple[int, ...] = LENGTHS) -> dict[str, Tensor]:
    """What a flattening collator returns."""
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return {
        "position_ids": torch.cat([torch.arange(n) + first for n in lengths])[None],
        "seq_idx": torch.repeat_interleave(torch.tensor(lengths))[None].to(torch.int32),
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
    }


def alone(model: nn.Module, ids: Tensor, **given: Tensor) -> Tensor:
    found = []
    start = 0
    for n in LENGTHS:
        own = {name: x[:, start : start + n] for name, x in given.items()}
        found.append(model(ids[:, start : start + n], **own).logits)
        start += n
    return torch.cat(found, 1)


def marks_for(pattern: sp.Pattern) -> dict[str, Tensor]:
    marks = torch.zeros(1, TOTAL, dtype=torch.bool)
    marks[0, [0, 3, 12]] = True
    return {"global_mask": marks} if takes(pattern, sp.BatchGlobal) else {}


# A pattern with documents of its own takes `segment_ids` besides.
OWN = [name for name in PATTERNS if not takes(PATTERNS[name], sp.SameDocument)]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        *(("llama", pattern) for pattern in OWN),
        *(
            pytest.param(
                "qwen2",
                pattern,
                marks=()
                if pattern in ("streaming", "longformer", "per head")
                else pytest.mark.long,
            )
            for pattern in OWN
        ),
    ],
)
def test_every_pattern_starts_over_with_each_document(name: str, pattern: str) -> None:
    model, ids = set_pattern(DECODERS[name](), PATTERNS[pattern]), some_ids(1, TOTAL)
    given = marks_for(PATTERNS[pattern])
    places = flat()["position_ids"]
    wanted = alone(model, ids, **given)
    close(model(ids, position_ids=places, use_cache=False, **given).logits, wanted, 1e-9)


WAYS = {
    "position_ids": ("position_ids",),
    "seq_idx": ("position_ids", "seq_idx"),
    "cu_seq_lens": ("position_ids", "cu_seq_lens_q", "cu_seq_lens_k"),
    "all": ("position_ids", "seq_idx", "cu_seq_lens_q", "cu_seq_lens_k"),
}


@pytest.mark.parametrize(
    ("use_cache", "way"),
    [
        *((True, way) for way in WAYS),
        (False, "position_ids"),
        *(
            pytest.param(False, way, marks=pytest.mark.long)
            for way in WAYS
            if way != "position_ids"
        ),
    ],
)
@pytest.mark.parametrize("name", DECODERS)
def test_decoders_take_documents_in_every_way(name: str, use_cache: bool, way: str) -> None:
    model, ids = set_pattern(DECODERS[name](), PATTERNS["sinks"]), some_ids(1, TOTAL)
    given = {key: value for key, value in flat().items() if key in WAYS[way]}
    got = model(ids, use_cache=use_cache, **given).logits
    close(got, alone(model, ids), 1e-9)


@pytest.mark.parametrize("way", ["seq_idx", "cu_seq_lens", "all"])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_take_documents_besides_positions(name: str, way: str) -> None:
    """Their masks tell no documents; positions are for their embeddings."""
    model, ids = set_pattern(ENCODERS[name](), PATTERNS["sinks"]), some_ids(1, TOTAL)
    first = 1 if name == "roberta" else 0
    given = {key: value for key, value in flat(first).items() if key in WAYS[way]}
    close(model(ids, **given).logits, alone(model, ids), TOLERANCE.get(name, 1e-9))


def test_chunks_start_over_with_each_document() -> None:
    model, ids = set_pattern(llama4(), sp.Window(8, 0)), some_ids(1, TOTAL)
    got = model(ids, position_ids=flat()["position_ids"], use_cache=False).logits
    close(got, alone(model, ids), 1e-5)
    with pytest.raises(ValueError, match="must start at 0 in each document"):
        model(ids, position_ids=flat(2)["position_ids"], use_cache=False)


def test_several_rows_of_documents() -> None:
    model, ids = set_pattern(llama(), PATTERNS["streaming"]), some_ids(2, TOTAL)
    other = (6, 20)
    places = torch.cat([flat()["position_ids"], flat(lengths=other)["position_ids"]])
    got = model(ids, position_ids=places, use_cache=False).logits
    close(got[:1], alone(model, ids[:1]), 1e-9)
    second = torch.cat([model(part).logits for part in ids[1:].split(other, 1)], 1)
    close(got[1:], second, 1e-9)


def test_gradients_are_those_of_runs_of_their_own() -> None:
    model, ids = set_pattern(llama(), PATTERNS["summary"] | PATTERNS["sinks"]), some_ids(1, TOTAL)
    weights = torch.randn(1, TOTAL, 60, dtype=torch.float64)
    used = list(model.parameters())
    packed = model(ids, position_ids=flat()["position_ids"], use_cache=False).logits
    grads = torch.autograd.grad((packed * weights).sum(), used)
    wanted = torch.autograd.grad((alone(model, ids) * weights).sum(), used)
    scale = max(float(grad.abs().max()) for grad in wanted)
    for grad, wanted_grad in zip(grads, wanted, strict=True):
        close(grad / scale, wanted_grad / scale, 1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_flash_attn_kwargs": True},
        pytest.param({"return_seq_idx": True}, marks=pytest.mark.long),
    ],
)
def test_the_trainer_with_a_flattening_collator(options: dict[str, bool], tmp_path: Path) -> None:
    """Its gradient is that of a loss over runs of their own."""
    pytest.importorskip("accelerate")
    model = set_pattern(llama(), PATTERNS["streaming"]).float()
    texts = [some_ids(1, n)[0].tolist() for n in (9, 5, 12)]
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(tmp_path),
            max_steps=1,
            per_device_train_batch_size=3,
            learning_rate=0.0,
            max_grad_norm=0.0,
            report_to=[],
            use_cpu=True,
            remove_unused_columns=False,
            disable_tqdm=True,
        ),
        data_collator=transformers.DataCollatorWithFlattening(**options),
        train_dataset=[{"input_ids": text} for text in texts],
    )
    found: dict[str, Tensor] = {}

    class Keep(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            found.update({name: p.grad.clone() for name, p in model.named_parameters()})

    trainer.add_callback(Keep())
    trainer.train()
    model.zero_grad()
    total = torch.zeros(())
    for text in texts:
        ids = torch.tensor([text])
        logits = model(ids).logits[0, :-1]
        total = total + nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
    (total / sum(len(text) - 1 for text in texts)).backward()
    scale = max(float(p.grad.abs().max()) for p in model.parameters())
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name] / scale, p.grad / scale, rtol=0, atol=1e-5)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "documents that differ": (
        {"seq_idx": torch.arange(TOTAL)[None] // 5},
        "seq_idx and position_ids must tell the same documents",
    ),
    "another shape": (
        {"seq_idx": torch.zeros(1, TOTAL - 1)},
        r"seq_idx must have.*\(1, 26\)",
    ),
    "bounds that stop early": (
        {"cu_seq_lens_q": torch.tensor([0, 9, 10])},
        "cu_seq_lens_q must be integers that grow from 0 to the number of tokens, 26",
    ),
    "bounds that go back": ({"cu_seq_lens_k": torch.tensor([0, 9, 5, 26])}, "cu_seq_lens_k must"),
}


@pytest.mark.parametrize("case", WRONG)
def test_documents_that_cannot_be_are_refused(case: str) -> None:
    given, why = WRONG[case]
    model, ids = set_pattern(llama(), sp.Window(3, 3)), some_ids(1, TOTAL)
    with pytest.raises(ValueError, match=why):
        model(ids, position_ids=flat()["position_ids"], **given)


def test_one_document_is_no_packing() -> None:
    mask = ModelMask(CAUSAL, 5, 5)
    assert documents_in(mask, 2, position_ids=torch.arange(5)[None] + 3) is None
    assert documents_in(mask, 1, cu_seq_lens_q=torch.tensor([0, 5])) is None
    # Positions of three axes, or of padded texts, tell nothing.
    assert documents_in(mask, 1, position_ids=torch.zeros(3, 1, 5).long()) is None
    padded = ModelMask(CAUSAL, 5, 5, real=torch.tensor([[False, True, True, True, True]]))
    assert documents_in(padded, 1, position_ids=torch.tensor([[0, 0, 1, 2, 3]])) is None


def test_documents_do_not_go_on_from_a_cache() -> None:
    mask = ModelMask(CAUSAL, 2, 7, q_offset=5)
    assert documents_in(mask, 1, position_ids=torch.tensor([[0, 0]])) is None
    with pytest.raises(ValueError, match="cannot go on from a cache"):
        documents_in(mask, 1, seq_idx=torch.zeros(1, 2).long())
