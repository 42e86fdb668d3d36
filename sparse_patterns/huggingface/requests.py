"""What a Hugging Face model may ask of its attention, and what it cannot have, with the reason."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sparse_patterns.huggingface.masks import ModelMask

_CANNOT = {
    "output_attentions": "the weights are never made; set attn_implementation='eager' to see them",
    "head_mask": "the kernels do not weigh heads",
    "indices": "the model chooses keys by itself",
    "block_indices": "the model chooses keys by itself",
    "encoder_hidden_states": "attention to another sequence has no pattern",
}

# Arguments of models that do not change the attention, or that the mask contains as well.
_SAID_ELSEWHERE = {
    "cache",
    "cache_position",
    "deterministic",
    "logits_to_keep",
    "max_length_k",
    "max_length_q",
    "num_items_in_batch",
    "output_hidden_states",
    "output_router_logits",
    "past_key_values",
    "position_embeddings",
    "return_dict",
    "use_cache",
}

PACKING = ("position_ids", "seq_idx", "cu_seq_lens_q", "cu_seq_lens_k")
"""Arguments that tell the documents of a packed row."""


def refuse_weights(model: nn.Module) -> None:
    """Make calls that ask for attention weights fail, also where a model does not hand that down.

    Args:
        model: A model of `transformers`; those inside of it are told too.
    """
    for module in model.modules():
        if hasattr(module, "set_attn_implementation"):
            hooks = module._forward_pre_hooks
            if _without_weights not in hooks.values():
                module.register_forward_pre_hook(_without_weights, with_kwargs=True)


def _without_weights(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    config: Any = module.config
    if kwargs.get("output_attentions") and config._attn_implementation == "sparse_patterns":
        raise ValueError(
            f"{type(module).__name__} is asked for output_attentions, which a sparse pattern "
            f"cannot have: {_CANNOT['output_attentions']}"
        )


def check_request(
    module: nn.Module,
    mask: ModelMask,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    asked: dict[str, Any],
) -> None:
    """Refuse what a module asks for and cannot have.

    Args:
        module: The attention module, with the model's `config`.
        mask: What the model masks.
        query: Queries `(batch, heads, q_len, head_dim)`.
        key: Keys `(batch, kv_heads, kv_len, head_dim)`.
        value: Values; must be of the shape of `key`.
        asked: All other arguments of the attention.

    Raises:
        ValueError: An argument that changes the attention is unknown or cannot be served; or the
            sizes are not those that the mask was made for.
    """
    kind = type(module).__name__
    if getattr(module.config, "output_attentions", False):
        asked = {**asked, "output_attentions": True}
    for name, given in asked.items():
        if given is None or given is False or name in _SAID_ELSEWHERE or name in PACKING:
            continue
        why = _CANNOT.get(name, "it is not known here, and nothing is ignored")
        raise ValueError(f"{kind} asks for {name}, which a sparse pattern cannot have: {why}")
    if mask.q_len != query.shape[2] or mask.kv_len + mask.room != key.shape[2]:
        raise ValueError(
            f"{kind} has {query.shape[2]} queries and {key.shape[2]} keys, but its mask was made "
            f"for {mask.q_len} and {mask.kv_len + mask.room}: another sequence's keys, or a cache "
            "that its layers do not share"
        )
    if mask.start is None and mask.q_offset + mask.q_len != mask.kv_offset + mask.kv_len:
        raise ValueError(
            f"{kind} has {mask.q_len} queries for {mask.kv_len} keys and no mask that gives their "
            "places: attention to another sequence is not served"
        )
    if key.shape != value.shape:
        raise ValueError(
            f"{kind} has values of shape {tuple(value.shape)}, which must be that of the keys, "
            f"{tuple(key.shape)}"
        )
