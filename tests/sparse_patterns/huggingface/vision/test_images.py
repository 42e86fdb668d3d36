"""Vision models with a window over their patches equal themselves under a dense mask."""

from typing import Any

import pytest
import torch
from torch import Tensor

import sparse_patterns as sp
from sparse_patterns.huggingface import set_pattern

transformers = pytest.importorskip("transformers")

CLASS_TOKEN = sp.Global((0,)) | sp.GridWindow((14, 14), 3, prefix=1)
SIZES = {
    "image_size": 56,
    "patch_size": 4,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
MODELS = {
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**SIZES)),
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SIZES)),
    "siglip": lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SIZES)),
}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("vit", CLASS_TOKEN),
        ("dinov2", CLASS_TOKEN),
        # SigLIP has no class token: its first token is a patch.
        ("siglip", sp.GridWindow((14, 14), (sp.linear(3, 1), 3))),
        ("siglip", CLASS_TOKEN),
    ],
)
def test_a_window_over_the_patches_equals_a_dense_mask(name: str, pattern: sp.Pattern) -> None:
    images = torch.randn(2, 3, 56, 56).double()
    model = MODELS[name]().double().eval()
    full = model(images).last_hidden_state
    length, layer = full.shape[1], iter(range(2))

    def masked(
        module: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, **kwargs: Any
    ) -> tuple[Tensor, None]:
        seen = sp.dense_mask(pattern, length, heads=4, layer=next(layer), layers=2)
        scores = (q @ k.mT * kwargs.get("scaling", q.shape[-1] ** -0.5)).masked_fill(~seen, -1e30)
        return (scores.softmax(-1) @ v).transpose(1, 2), None

    transformers.AttentionInterface.register("masked_by_hand", masked)
    model.set_attn_implementation("masked_by_hand")
    expected = model(images).last_hidden_state
    assert (expected - full).abs().max() > 1e-3
    assert next(layer, None) is None

    sparse = set_pattern(model, pattern)(images).last_hidden_state
    torch.testing.assert_close(sparse, expected, rtol=1e-9, atol=1e-9)
    sparse.square().sum().backward()
    ends = ("query.weight", "q_proj.weight")
    queries = [one.grad for name, one in model.named_parameters() if name.endswith(ends)]
    assert len(queries) == 2
    assert all(grad is not None and grad.any() for grad in queries)
