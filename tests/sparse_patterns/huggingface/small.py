"""Small random models of every architecture of `transformers`, and inputs for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedConfig

# By the name of the field, wherever a configuration has it.
SIZES: dict[str, Any] = {
    **dict.fromkeys(["hidden_size", "d_model", "n_embd", "dim", "embed_dim", "embedding_size"], 32),
    **dict.fromkeys(
        [
            *("intermediate_size", "n_inner", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"),
            *("d_ff", "hidden_dim", "moe_intermediate_size", "mlp_hidden_size"),
            "shared_expert_intermediate_size",
        ],
        40,
    ),
    **dict.fromkeys(
        [
            *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"),
            *("decoder_layers", "num_decoder_layers", "num_encoder_layers"),
        ],
        2,
    ),
    **dict.fromkeys(
        [
            *("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"),
            *("decoder_attention_heads", "num_experts", "num_local_experts", "n_routed_experts"),
        ],
        4,
    ),
    **dict.fromkeys(["max_position_embeddings", "n_positions"], 64),
    **dict.fromkeys(["n_group", "topk_group"], 1),
    **dict.fromkeys(["head_dim", "v_head_dim", "q_lora_rank", "kv_lora_rank"], 8),
    **dict.fromkeys(["qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim"], 4),
    **{"num_key_value_heads": 2, "num_experts_per_tok": 2, "vocab_size": 60},
    **{"image_size": 16, "patch_size": 4, "num_channels": 3},
    **{"conv_dim": (16, 16), "conv_stride": (2, 2), "conv_kernel": (3, 3)},
    **{"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2},
    "num_feat_extract_layers": 2,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

_ONE_OF_EACH = {"layer_types": ["linear_attention", "full_attention"]}
_ALL_HEADS = {"num_key_value_heads": 4}

# What an architecture needs besides.
OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ["qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "qwen4_exp_text"], _ONE_OF_EACH
    ),
    **dict.fromkeys(
        [
            *("axk2", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "minicpm3", "mistral4"),
            "sarvam_mla",
        ],
        _ALL_HEADS,
    ),
    **{name: {**_ALL_HEADS, "head_dim": 4} for name in ("axk1", "deepseek_v3", "youtu")},
    "deepseek_v2": {**_ALL_HEADS, "num_experts_per_tok": 2, "topk_method": "greedy"},
    "jamba": {"attn_layer_offset": 0, "attn_layer_period": 2, "use_mamba_kernels": False},
    "qwen2_moe": {"use_sliding_window": True, "sliding_window": 6},
    "falcon_h1": {"mamba_d_state": 8, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8},
    "beit": {"use_relative_position_bias": True},
}
LARGEST = 3_000_000


def config_of(kind: type[PreTrainedConfig], **own: Any) -> PreTrainedConfig:
    """A configuration of small sizes; those of its parts too."""
    base, fields = kind(), dict(own)
    for name, value in base.to_dict().items():
        small = SIZES.get(name)
        sequence = isinstance(value, list | tuple)
        if isinstance(value, bool) or name in own:
            continue
        if name in TOKENS:
            fields[name] = TOKENS[name]
        elif small is not None and (isinstance(value, int) or sequence):
            if sequence == isinstance(small, tuple):
                fields[name] = small
        elif small is not None and value is None and name == "num_key_value_heads":
            fields[name] = small
    for name in base.sub_configs or {}:
        part = getattr(base, name, None)
        if part is not None and name not in own:
            fields[name] = config_of(type(part)).to_dict()
    return kind(**fields)


def on_meta(model_type: str) -> nn.Module:
    """A model of an architecture without numbers, small if it can be."""
    kind = CONFIG_MAPPING[model_type]
    try:
        config = config_of(kind, **OWN.get(model_type, {}))
    except Exception:
        config = kind()
    with torch.device("meta"):
        return AutoModel.from_config(config)


def make(model_type: str) -> nn.Module:
    """A small model of an architecture, without a head, with its own eager attention.

    Raises:
        ValueError: It cannot be made small.
    """
    config = config_of(CONFIG_MAPPING[model_type], **OWN.get(model_type, {}))
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModel.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{model_type} has {size} parameters, at most {LARGEST} are small")
    torch.manual_seed(1)
    model = AutoModel.from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(0, 0.3)
    return model


def inputs(model: Any) -> dict[str, Tensor]:
    """Two examples for a model."""
    name, config = model.main_input_name, model.config
    torch.manual_seed(0)
    if name == "input_ids":
        return {"input_ids": torch.randint(3, 60, (2, 12))}
    if name == "pixel_values":
        size = getattr(config, "image_size", 16) or 16
        size = size if isinstance(size, int) else size[0]
        channels = getattr(config, "num_channels", 3) or 3
        return {"pixel_values": torch.randn(2, channels, size, size)}
    if name == "input_values":
        return {"input_values": torch.randn(2, 200)}
    raise ValueError(f"no input for {name}")


def run(model: nn.Module) -> Tensor:
    """The first tensor that a model returns."""
    with torch.no_grad():
        out = model(**inputs(model))
    values = out if isinstance(out, list | tuple) else list(out.values())
    return next(value for value in values if isinstance(value, Tensor))
