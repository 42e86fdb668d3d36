"""Models with a cap, sinks or T5's bias equal their own eager attention under the same mask."""

import copy

import pytest
import torch
import transformers
from torch import nn

import sparse_patterns as sp
from sparse_patterns.huggingface import set_pattern
from tests.huggingface_reference import with_reference
from tests.sparse_patterns.huggingface.models import HEADS, SMALL, finish

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*RoPE scaling factor.*"),
]

NEAR = sp.Window(3, 2) | sp.Global((0,))
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": HEADS, "vocab_size": 60}
T5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}
FEW = {**SMALL, "num_key_value_heads": 2, "head_dim": 8}


def gemma2() -> nn.Module:
    config = transformers.Gemma2Config(**FEW, attn_logit_softcapping=2.0, sliding_window=6)
    return transformers.Gemma2ForCausalLM(config)


def gpt_oss() -> nn.Module:
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
    return transformers.GptOssForCausalLM(transformers.GptOssConfig(**FEW, **experts))


def t5() -> nn.Module:
    return transformers.T5EncoderModel(transformers.T5Config(**T5))


def umt5() -> nn.Module:
    """With a bias in each layer."""
    return transformers.UMT5EncoderModel(transformers.UMT5Config(**T5))


MODELS = {"gemma2": gemma2, "gpt_oss": gpt_oss, "t5": t5, "umt5": umt5}
TYPES = {"gpt_oss": torch.float32, "gemma2": torch.float32}
"""Experts have no products in float64, and Gemma2's own softmax is of float32 in any case."""

LEARNED = {"gpt_oss": "sinks", "t5": "relative_attention_bias", "umt5": "relative_attention_bias"}


def outcome(model: nn.Module, name: str, padded: bool) -> list[torch.Tensor]:
    """Return the output at real tokens, and the gradients of sinks and biases."""
    ids = torch.randint(3, 60, (2, 30), generator=torch.Generator().manual_seed(0))
    real = torch.ones_like(ids)
    if padded:
        real[1, 22:] = 0
    model.zero_grad()
    out = model(ids, attention_mask=real)[0][real.bool()]
    out.square().sum().backward()
    learned = LEARNED.get(name, "nothing")
    grads = [p.grad for n, p in model.named_parameters() if learned in n and p.grad is not None]
    assert len(grads) > 0 or name == "gemma2"
    return [out.detach(), *(grad.clone() for grad in grads)]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_it_equals_its_own_attention_under_the_same_mask(name: str, padded: bool) -> None:
    model = set_pattern(finish(MODELS[name]()), NEAR)
    model.to(TYPES.get(name, torch.float64))
    got = outcome(model, name, padded)
    with with_reference(model, NEAR):
        wanted = outcome(model, name, padded)
    for one, other in zip(got, wanted, strict=True):
        # The models round rotary positions or weights to float32 on the way.
        size = float(other.abs().max())
        torch.testing.assert_close(one / size, other / size, rtol=0, atol=1e-5)
    model.set_attn_implementation("eager")
    full = outcome(model, name, padded)
    assert float((got[0] - full[0]).abs().max()) > 1e-3 * float(full[0].abs().max())


def test_the_bias_takes_memory_by_distance_and_survives_a_copy() -> None:
    model = copy.deepcopy(set_pattern(finish(t5()), NEAR))
    first = model.encoder.block[0].layer[0].SelfAttention
    assert first.compute_bias(4000, 4000).shape == (HEADS, 2 * 20 + 1)
    assert first.compute_bias.__self__ is first
    model.set_attn_implementation("eager")
    assert first.compute_bias(9, 9).shape == (1, HEADS, 9, 9)


def test_a_generation_with_a_cap_equals_one_pass() -> None:
    model = set_pattern(finish(gemma2()), sp.Window.before(5) | sp.Global((0,), rows=False))
    ids = torch.randint(3, 60, (1, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None)
        whole = model(found, use_cache=False).logits[:, 8:-1].argmax(-1)
    assert torch.equal(found[:, 9:], whole)
