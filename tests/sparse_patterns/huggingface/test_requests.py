"""What a model asks for and a pattern cannot give is refused with the reason."""

import pytest
import torch
import transformers
from torch import nn

from sparse_patterns.huggingface.attach import set_pattern
from tests.sparse_patterns.huggingface.models import (
    HEADS,
    LENGTH,
    NEAR,
    SMALL,
    llama,
    some_ids,
)

pytestmark = pytest.mark.usefixtures("one_thread")


REFUSED = {
    "weights": ({"output_attentions": True}, "output_attentions.*eager"),
    "a mask of its own": (
        {"attention_mask": torch.ones(2, 1, LENGTH, LENGTH, dtype=torch.bool)},
        r"shape \(2, 1, 22, 22\): only padding",
    ),
    "a bias of pairs": (
        {"position_bias": torch.zeros(1, HEADS, LENGTH, LENGTH)},
        "position_bias.*none of pairs",
    ),
    "too few sinks": ({"s_aux": torch.zeros(HEADS + 1)}, r"sinks must have shape \(heads,\)"),
    "what is not known": ({"unheard_of": 1}, "unheard_of.*not known"),
    "global tokens without readers": (
        {"global_mask": torch.zeros(2, LENGTH, dtype=torch.bool)},
        "no BatchGlobal",
    ),
    "a short mask": ({"attention_mask": torch.ones(2, LENGTH - 3)}, r"\(2, 22\), got \(2, 19\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_with_the_reason(case: str) -> None:
    given, why = REFUSED[case]
    model = set_pattern(llama(), NEAR)
    with pytest.raises(ValueError, match=f"(?s){why}"):
        model(some_ids(), **given)


def test_weights_asked_for_by_the_configuration_are_refused() -> None:
    model = llama()
    model.set_attn_implementation("eager")
    model.config.output_attentions = True
    with pytest.raises(ValueError, match="output_attentions"):
        set_pattern(model, NEAR)(some_ids())


def test_models_that_cannot_have_a_pattern_are_refused() -> None:
    few = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8}
    few |= {"decoder_ffn_dim": 8, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    bart = transformers.BartModel(transformers.BartConfig(vocab_size=60, **few))
    with pytest.raises(ValueError, match="BartModel attends from one sequence to another"):
        set_pattern(bart, NEAR)
    longformer = transformers.LongformerModel(
        transformers.LongformerConfig(**SMALL, attention_window=4)
    )
    with pytest.raises(ValueError, match="LongformerModel does not use"):
        set_pattern(longformer, NEAR)
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={**SMALL, "num_hidden_layers": 1},
            vision_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        )
    )
    with pytest.raises(ValueError, match=r"several models.*text_model"):
        set_pattern(clip, NEAR)
    with pytest.raises(TypeError, match="model of transformers, got Linear"):
        set_pattern(nn.Linear(2, 2), NEAR)
