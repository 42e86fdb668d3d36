"""Small models of `transformers`, their own masks, and texts for them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import sparse_patterns as sp

LENGTH, HEADS, LAYERS, WINDOW = 22, 4, 3, 6
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
KINDS = ["full_attention", "sliding_attention", "full_attention"]
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def llama(**fields: Any) -> nn.Module:
    config = transformers.LlamaConfig(**{**SMALL, "num_key_value_heads": 2, **fields})
    return finish(transformers.LlamaForCausalLM(config))


def qwen2(**fields: Any) -> nn.Module:
    """With a layer that has a window, whose cache drops keys."""
    config = transformers.Qwen2Config(
        **SMALL,
        num_key_value_heads=1,
        use_sliding_window=True,
        sliding_window=WINDOW,
        layer_types=KINDS,
        **fields,
    )
    return finish(transformers.Qwen2ForCausalLM(config))


def qwen3(**fields: Any) -> nn.Module:
    config = transformers.Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=12, **fields)
    return finish(transformers.Qwen3ForCausalLM(config))


def mistral(**fields: Any) -> nn.Module:
    config = transformers.MistralConfig(
        **SMALL, num_key_value_heads=2, sliding_window=WINDOW, **fields
    )
    return finish(transformers.MistralForCausalLM(config))


def roberta(**fields: Any) -> nn.Module:
    config = transformers.RobertaConfig(**SMALL, **NO_DROPOUT, **fields)
    return finish(transformers.RobertaForMaskedLM(config))


def bert(**fields: Any) -> nn.Module:
    return finish(
        transformers.BertForMaskedLM(transformers.BertConfig(**SMALL, **NO_DROPOUT, **fields))
    )


def bert_decoder() -> nn.Module:
    config = transformers.BertConfig(**SMALL, **NO_DROPOUT, is_decoder=True)
    return finish(transformers.BertLMHeadModel(config))


def modernbert(**fields: Any) -> nn.Module:
    config = transformers.ModernBertConfig(
        **SMALL,
        cls_token_id=1,
        sep_token_id=2,
        local_attention=2 * WINDOW,
        layer_types=KINDS,
        **fields,
    )
    return finish(transformers.ModernBertForMaskedLM(config))


def finish(model: nn.Module) -> nn.Module:
    """Weights large enough that attention is far from uniform, in float64."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(0, 0.3, generator=generator)
    return model.double().eval()


CAUSAL_MODELS = {"llama": llama, "qwen2": qwen2, "qwen3": qwen3, "mistral": mistral}
MODELS = {
    **CAUSAL_MODELS,
    "bert-decoder": bert_decoder,
    "roberta": roberta,
    "bert": bert,
    "modernbert": modernbert,
}
# These round queries and keys to float32 on the way.
TOLERANCE = {"modernbert": 3e-6}

NEAR = sp.Window(3, 2) | sp.Global((0,))
PATTERNS = {
    "window and global": NEAR,
    "per head": sp.PerHead(sp.Window(2, 2), sp.Window(2, 2, dilation=3) | sp.Global((1,))),
    "per layer": sp.PerLayer(sp.Window(1, 1), sp.LocalBlock(5), sp.Strided(4) | sp.Window(1, 1)),
    "by depth": sp.Window(sp.linear(2, 8), sp.linear(1, 5)),
    "random": sp.RandomBlocks(4, 2, seed=3) | sp.Window(1, 1) | sp.Global((-1,)),
}


def attentions(model: nn.Module) -> list[nn.Module]:
    """The modules that call the attention interface, in order of layers."""
    return [m for m in model.modules() if hasattr(m, "layer_idx") and hasattr(m, "is_causal")]


def own_mask(model: nn.Module, layer: int) -> Tensor:
    """What the model itself lets a layer see."""
    i, j = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)[None]
    config = model.config
    causal = attentions(model)[layer].is_causal
    seen = j <= i if causal else torch.ones(LENGTH, LENGTH, dtype=torch.bool)
    kinds = getattr(config, "layer_types", None)
    sliding = kinds[layer] == "sliding_attention" if kinds else config.model_type == "mistral"
    if sliding:
        seen = seen & (i - j < WINDOW if causal else (i - j).abs() <= WINDOW)
    return seen


def texts(real: Tensor) -> list[slice]:
    return [slice(int(r.nonzero().min()), int(r.nonzero().max()) + 1) for r in real]


def masks(model: nn.Module, pattern: sp.Pattern, real: Tensor, **given: Any) -> list[Tensor]:
    """Dense masks of all layers; padded queries see themselves, so that softmax is defined."""
    found = []
    for layer in range(LAYERS):
        length = real.shape[1]
        mask = torch.eye(length, dtype=torch.bool).repeat(len(real), HEADS, 1, 1)
        for example, text in enumerate(texts(real)):
            size = text.stop - text.start
            seen = sp.dense_mask(pattern, size, heads=HEADS, layer=layer, layers=LAYERS, **given)
            seen = seen[example] if seen.ndim == 4 else seen
            own = own_mask(model, layer)[:size, :size]
            mask[example, :, text, text] |= seen & own
        found.append(mask)
    return found


@contextlib.contextmanager
def dense(model: nn.Module, given: list[Tensor]) -> Iterator[None]:
    """Within, the model's own attention runs with these masks."""
    model.set_attn_implementation("sdpa")
    hooks = []
    for module, mask in zip(attentions(model), given, strict=True):

        def put(_: nn.Module, args: Any, kwargs: Any, mask: Tensor = mask) -> Any:
            assert "attention_mask" in kwargs
            return args, {**kwargs, "attention_mask": mask}

        hooks.append(module.register_forward_pre_hook(put, with_kwargs=True))
    yield
    for hook in hooks:
        hook.remove()


def padding() -> Tensor:
    """One example without, one padded on the left, one on the right."""
    real = torch.ones(3, LENGTH, dtype=torch.long)
    real[1, :7] = 0
    real[2, -4:] = 0
    return real


def some_ids(batch: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randint(3, 60, (batch, length))


def close(got: Tensor, wanted: Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)
