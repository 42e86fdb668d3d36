"""What `set_pattern` refuses by what a model is made of, and parts and wrappers that it serves."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import sparse_patterns as sp
from sparse_patterns.huggingface import set_pattern
from sparse_patterns.huggingface.finding import attentions_of, layers_of
from tests.huggingface_reference import with_reference
from tests.sparse_patterns.huggingface.models import (
    LENGTH,
    NEAR,
    SMALL,
    close,
    llama,
    mistral,
    some_ids,
)
from tests.sparse_patterns.huggingface.small import make, on_meta

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = {
    **{"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 8},
    **{"decoder_ffn_dim": 8, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
}


def bart() -> nn.Module:
    config = transformers.BartConfig(vocab_size=60, **FEW, max_position_embeddings=64)
    return transformers.BartModel(config).eval()


def whisper() -> nn.Module:
    config = transformers.WhisperConfig(
        vocab_size=60, **FEW, num_mel_bins=4, max_source_positions=12, pad_token_id=0
    )
    return transformers.WhisperModel(config).eval()


def deepseek() -> nn.Module:
    sizes = {"qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "kv_lora_rank": 8}
    few = {"n_routed_experts": 2, "num_experts_per_tok": 1, "n_group": 1, "topk_group": 1}
    return transformers.DeepseekV3Model(
        transformers.DeepseekV3Config(**SMALL, **sizes, **few, q_lora_rank=8)
    )


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    **{
        name: (lambda name=name: on_meta(name), "has no attention that can be replaced")
        for name in ("mamba", "mamba2", "fnet", "resnet")
    },
    "mpt": (lambda: on_meta("mpt"), "MptModel does not use transformers' attention interface"),
    "doge": (
        lambda: on_meta("doge"),
        "DogeModel cannot have a pattern: its attention makes",
    ),
    "beit": (lambda: on_meta("beit"), "BeitModel adds a bias to its scores by places"),
    "bart": (bart, "BartModel attends from one sequence to another"),
    "bart's decoder": (lambda: bart().decoder, "BartDecoder attends from one sequence to another"),
    "values of another size": (
        deepseek,
        "self_attn has values of size 8, which must be that of its keys, 12",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_have_a_pattern_is_refused_at_once(case: str) -> None:
    made, why = REFUSED[case]
    with pytest.raises(ValueError, match=why):
        set_pattern(made(), NEAR)


def test_the_encoder_of_bart_works_and_its_decoder_stays() -> None:
    model, ids = bart(), some_ids()
    whole = model(ids).last_hidden_state
    encoder = set_pattern(model.encoder, NEAR)
    got = encoder(ids).last_hidden_state
    with with_reference(encoder, NEAR):
        close(got, encoder(ids).last_hidden_state, 1e-5)
    after = model(ids).last_hidden_state
    assert (after - whole).abs().max() > 1e-6
    decoded = {"decoder_input_ids": ids, "encoder_outputs": (got,)}
    close(model(**decoded).last_hidden_state, bart_like(model)(**decoded).last_hidden_state, 1e-5)


def bart_like(model: nn.Module) -> nn.Module:
    other = bart()
    other.load_state_dict(model.state_dict())
    return other


def test_the_encoder_of_whisper_works() -> None:
    encoder = set_pattern(whisper().encoder, NEAR)
    sound = torch.randn(2, 4, 24)
    got = encoder(sound).last_hidden_state
    with with_reference(encoder, NEAR):
        close(got, encoder(sound).last_hidden_state, 1e-5)


# peft still asks transformers by an older name.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_a_model_of_peft_works() -> None:
    peft = pytest.importorskip("peft")
    base, ids = llama(), some_ids()
    wanted = set_pattern(copy.deepcopy(base), NEAR)(ids).logits
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, config)
    assert set_pattern(model, NEAR) is model
    close(model(ids).logits, wanted)
    model(ids).logits.sum().backward()
    prompts = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match="puts learned tokens before each text"):
        set_pattern(peft.get_peft_model(llama(), prompts), NEAR)


@pytest.mark.parametrize("name", ["gpt2", "opt", "persimmon", "gpt_bigcode", "bert"])
def test_attention_weights_are_refused_by_all(name: str) -> None:
    model = set_pattern(make(name), NEAR)
    ids = some_ids(length=12)
    with pytest.raises(ValueError, match=r"asked for output_attentions.*'eager'"):
        model(ids, output_attentions=True)
    model.set_attn_implementation("eager")
    assert model(ids, output_attentions=True).attentions[0].shape[-1] == 12


@pytest.mark.parametrize("length", [5, 6, 9])
@pytest.mark.parametrize("name", ["llama", "mistral", "phi3"])
@pytest.mark.parametrize("padded", [False, True])
def test_a_static_cache_generates_what_the_dynamic_one_does(
    name: str, length: int, padded: bool
) -> None:
    """Also with a prompt as long as the window of the model."""
    if name == "phi3":
        config = transformers.Phi3Config(**SMALL, num_key_value_heads=2, sliding_window=6)
        model = transformers.Phi3ForCausalLM(config).double().eval()
    else:
        model = {"llama": llama, "mistral": mistral}[name]()
    set_pattern(model, NEAR)
    ids = some_ids(length=length)
    real = torch.ones_like(ids)
    if padded:
        real[0, :2] = 0
    scores = []
    for kind in ("dynamic", "static"):
        told = model.generate(
            ids,
            attention_mask=real,
            cache_implementation=kind,
            max_new_tokens=4,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
        )
        scores.append(torch.stack(told.scores))
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-11, atol=1e-11)


def test_layers_without_a_number_are_counted() -> None:
    config = transformers.ViTConfig(
        image_size=16, patch_size=4, hidden_size=32, intermediate_size=40, num_hidden_layers=2
    )
    config.num_attention_heads = 4
    model = transformers.ViTModel(config).double().eval()
    found = attentions_of(model, transformers.PreTrainedModel)
    assert layers_of(found, 2) == [0, 1]
    assert layers_of(found, 3) == [None, None]
    images = torch.randn(1, 3, 16, 16).double()
    by_layer = set_pattern(model, sp.PerLayer(sp.Full(), sp.Window(1, 1)))(images)
    other = set_pattern(model, sp.PerLayer(sp.Window(1, 1), sp.Full()))(images)
    assert (by_layer.last_hidden_state - other.last_hidden_state).abs().max() > 1e-6


def test_layers_that_cannot_be_told_apart_are_refused() -> None:
    model: Any = set_pattern(make("albert"), NEAR)
    with pytest.raises(ValueError, match=r"AlbertModel does not tell.*varies by layer"):
        set_pattern(model, sp.PerLayer(sp.Full(), sp.Window(1, 1)))
    assert model(some_ids()).last_hidden_state.shape[1] == LENGTH
