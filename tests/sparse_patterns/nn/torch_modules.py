"""Small modules of torch, their inputs, and what a pattern should make of them."""

from typing import Any

import torch
from torch import Tensor, nn

import sparse_patterns as sp

LENGTH, WIDTH, HEADS, LAYERS = 15, 24, 4, 3
PATTERN = sp.PerHead(sp.Window(2, 1), sp.Window(1, 1, dilation=3)) | sp.Global((0,))
BY_LAYER = sp.PerLayer(sp.Window(1, 1), sp.LocalBlock(4), sp.Strided(3))


def attention(**options: Any) -> nn.MultiheadAttention:
    made = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)
    if made.in_proj_bias is not None:
        nn.init.normal_(made.in_proj_bias)
        nn.init.normal_(made.out_proj.bias)
    return made


def encoder(**options: Any) -> nn.TransformerEncoder:
    options = {"dim_feedforward": 20, "dropout": 0.0, "batch_first": True, **options}
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, **options)
    nested = options["batch_first"] and not options.get("norm_first", False)
    made = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=nested)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def hidden(pattern: sp.Pattern, layer: int = 0, batch: int = 2, layers: int = 1) -> Tensor:
    """The `attn_mask` of a pattern: `(batch * heads, length, length)`, True where hidden."""
    seen = sp.dense_mask(pattern, LENGTH, heads=HEADS, layer=layer, layers=layers)
    return ~seen.repeat(batch, 1, 1)


def embeddings(batch: int = 2) -> Tensor:
    return torch.randn(batch, LENGTH, WIDTH, requires_grad=True)


def padding() -> Tensor:
    """True where padded: the end of one example, the start of the other."""
    padded = torch.zeros(2, LENGTH, dtype=torch.bool)
    padded[0, -4:] = True
    padded[1, :3] = True
    return padded


def close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)


def gradients(out: Tensor, module: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    weights = torch.linspace(-1, 1, out.numel()).reshape(out.shape)
    named = dict(module.named_parameters())
    found = torch.autograd.grad((out * weights).sum(), [*named.values(), *inputs])
    return dict(zip([*named, *map(str, range(len(inputs)))], found, strict=True))
