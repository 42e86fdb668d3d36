"""`nn.MultiheadAttention` with a pattern, against the same module with an equal `attn_mask`."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparse_patterns as sp
from tests.sparse_patterns.nn.torch_modules import (
    PATTERN,
    WIDTH,
    attention,
    close,
    embeddings,
    gradients,
    hidden,
    padding,
)

pytestmark = pytest.mark.usefixtures("float64_in_one_thread")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_is_that_of_the_dense_mask(batch_first: bool, bias: bool) -> None:
    dense, x = attention(bias=bias), embeddings()
    dense.batch_first = batch_first
    sparse = sp.sparsify(copy.deepcopy(dense), PATTERN)

    def run(module: nn.Module, **options: Any) -> Tensor:
        given = x if batch_first else x.transpose(0, 1)
        out = module(given, given, given, need_weights=False, **options)[0]
        return out if batch_first else out.transpose(0, 1)

    wanted, got = run(dense, attn_mask=hidden(PATTERN)), run(sparse)
    close(got, wanted)
    wanted_grads, grads = gradients(wanted, dense, x), gradients(got, sparse, x)
    assert grads.keys() == wanted_grads.keys()
    for name, grad in grads.items():
        close(grad, wanted_grads[name])
    full = run(sp.sparsify(dense, "full"))
    assert (full - got).abs().max() > 1e-2


def test_one_sequence_without_a_batch() -> None:
    dense, x = attention(), embeddings()[0]
    padded = padding()[0]
    wanted = dense(x, x, x, attn_mask=hidden(PATTERN, batch=1), key_padding_mask=padded)[0]
    got, weights = sp.sparsify(dense, PATTERN)(x, x, x, padded, need_weights=False)
    close(got[~padded], wanted[~padded])
    assert weights is None


def test_values_of_their_own() -> None:
    dense, x, value = attention(), embeddings(), embeddings()
    wanted = dense(x, x, value, attn_mask=hidden(PATTERN))[0]
    got = sp.sparsify(dense, PATTERN)(x, x, value, need_weights=False)[0]
    close(got, wanted)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_padded_keys_are_invisible_and_padded_queries_give_the_bias(kind: str) -> None:
    dense, x, padded = attention(), embeddings(), padding()
    mask = padded if kind == "bool" else torch.where(padded, -torch.inf, 0.0)
    other = hidden(PATTERN)
    wanted = dense(x, x, x, attn_mask=other, key_padding_mask=padded)[0]
    got = sp.sparsify(dense, PATTERN)(x, x, x, key_padding_mask=mask, need_weights=False)[0]
    close(got[~padded], wanted[~padded])
    close(got[padded], dense.out_proj.bias.expand(7, WIDTH))
