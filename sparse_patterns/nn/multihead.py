"""Multi-head self-attention with a pattern, called and stored like `nn.MultiheadAttention`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_patterns.functional import attention
from sparse_patterns.spec.atoms import Causal
from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.binding import bind


class SparseMultiheadAttention(nn.Module):
    """Takes the place of an `nn.MultiheadAttention`, with its parameters under the same names.

    The call is the same, for self-attention. A query that sees no key gives the bias of the output
    projection, and so does a padded query, where torch gives NaN or attends all the same.

    Args:
        dense: The attention whose parameters are taken over, as they are.
        pattern: What attends to what.
        layer: Layer of a pattern that varies over layers.
        layers: Number of layers of the model.
        ignore_need_weights: Whether a caller that asks for the attention weights gets None instead
            of an error.

    Raises:
        ValueError: `dense` adds keys of its own, takes keys of another size or has hooks, or the
            pattern does not fit its heads.
    """

    in_proj_weight: nn.Parameter
    in_proj_bias: nn.Parameter | None
    out_proj: nn.Module
    embed_dim: int
    num_heads: int
    dropout: float
    batch_first: bool

    def __init__(
        self,
        dense: nn.MultiheadAttention | SparseMultiheadAttention,
        pattern: Pattern,
        *,
        layer: int = 0,
        layers: int = 1,
        ignore_need_weights: bool = False,
    ) -> None:
        super().__init__()
        _check_dense(dense)
        bind(pattern, heads=dense.num_heads, layer=layer, layers=layers)
        self.embed_dim, self.num_heads = dense.embed_dim, dense.num_heads
        self.head_dim = dense.embed_dim // dense.num_heads
        self.dropout, self.batch_first = dense.dropout, dense.batch_first
        self.pattern, self.layer, self.layers = pattern, layer, layers
        self.ignore_need_weights = ignore_need_weights
        self.register_parameter("in_proj_weight", dense.in_proj_weight)
        self.register_parameter("in_proj_bias", dense.in_proj_bias)
        self.out_proj = dense.out_proj
        self.train(dense.training)

    @property
    def _qkv_same_embed_dim(self) -> bool:
        """Torch's encoder layers ask this before they use the weights without calling us."""
        return False

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Attend within each sequence.

        Args:
            query: Embeddings `(batch, length, embed_dim)` with `batch_first`, else
                `(length, batch, embed_dim)`; or `(length, embed_dim)` of one sequence.
            key: The same tensor as `query`.
            value: Embeddings of the same shape.
            key_padding_mask: `(batch, length)`, or `(length,)` of one sequence: bool, True for
                padding, or 0 for real tokens and -inf for padding.
            need_weights: Must be False, except where the module was made with
                `ignore_need_weights`.
            attn_mask: A causal mask, or one that hides nothing; the rest belongs in the pattern.
            average_attn_weights: Of no effect, as there are no weights.
            is_causal: Whether no query sees later keys.

        Returns:
            The output, of the shape of `query`, and None.

        Raises:
            ValueError: A shape does not fit, keys are of another sequence, weights are wanted, or
                a mask holds more than padding and causality.
        """
        if need_weights and not self.ignore_need_weights:
            raise ValueError(
                "need_weights=True, but sparse attention never makes its weights: call with "
                "need_weights=False, or sparsify(..., ignore_need_weights=True) to return None"
            )
        if query.is_nested:
            raise ValueError("nested tensors are not served; give key_padding_mask")
        if query.ndim not in (2, 3) or query.shape[-1] != self.embed_dim:
            raise ValueError(
                f"query must have shape (batch, length, {self.embed_dim}), that with the first two "
                f"swapped, or (length, {self.embed_dim}), got {tuple(query.shape)}"
            )
        if not _same(query, key) or value.shape != query.shape:
            raise ValueError(
                "key must be the same tensor as query, and value of its shape: attention to "
                f"another sequence has no pattern; got query {tuple(query.shape)}, "
                f"key {tuple(key.shape)}, value {tuple(value.shape)}"
            )
        swapped = query.ndim == 3 and not self.batch_first
        single = query.ndim == 2

        def batched(x: Tensor) -> Tensor:
            return x[None] if single else x.transpose(0, 1) if swapped else x

        q, k, v = self._project(batched(query), batched(value), same=_same(query, value))
        length = q.shape[2]
        key_mask = _real(key_padding_mask, q.shape[0], length, single)
        causal = is_causal
        if attn_mask is not None:
            causal = _is_causal(attn_mask, length, is_causal)
        out = attention(
            q,
            k,
            v,
            self.pattern & Causal() if causal else self.pattern,
            layer=self.layer,
            layers=self.layers,
            key_mask=key_mask,
            dropout_p=self.dropout if self.training else 0.0,
        )
        assert isinstance(out, Tensor)
        joined = self.out_proj(out.transpose(1, 2).flatten(2))
        return joined[0] if single else joined.transpose(0, 1) if swapped else joined, None

    def _project(self, x: Tensor, value: Tensor, *, same: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k and v, each `(batch, heads, length, head_dim)`."""
        weight, bias = self.in_proj_weight, self.in_proj_bias
        size = self.embed_dim
        if same:
            q, k, v = F.linear(x, weight, bias).chunk(3, -1)
        else:
            two = None if bias is None else bias[: 2 * size]
            q, k = F.linear(x, weight[: 2 * size], two).chunk(2, -1)
            v = F.linear(value, weight[2 * size :], None if bias is None else bias[2 * size :])
        q, k, v = (
            y.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2) for y in (q, k, v)
        )
        return q, k, v

    def extra_repr(self) -> str:
        """Return what the projection does not show."""
        layer = f", layer={self.layer}, layers={self.layers}" if self.layers > 1 else ""
        return f"{self.embed_dim}, num_heads={self.num_heads}, {self.pattern!r}{layer}"


def _check_dense(dense: nn.MultiheadAttention | SparseMultiheadAttention) -> None:
    """Refuse what a sparse attention cannot take over."""
    for name in (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
    ):
        if getattr(dense, name):
            kind = name.strip("_").replace("_hooks", "").replace("_", " ")
            raise ValueError(f"there are {kind} hooks, which would be lost; remove them first")
    if isinstance(dense, SparseMultiheadAttention):
        return
    if not dense._qkv_same_embed_dim:
        raise ValueError(
            f"kdim and vdim must be embed_dim ({dense.embed_dim}), got kdim={dense.kdim} and "
            f"vdim={dense.vdim}: only self-attention can have a pattern"
        )
    if dense.bias_k is not None or dense.bias_v is not None or dense.add_zero_attn:
        raise ValueError(
            "add_bias_kv and add_zero_attn add a key that has no position, so that no pattern "
            "says who sees it"
        )


def _same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are one, or two views of the same numbers."""
    return a is b or (
        a.shape == b.shape and a.stride() == b.stride() and a.data_ptr() == b.data_ptr()
    )


def _hidden(name: str, mask: Tensor) -> Tensor:
    """Return what a mask of torch's modules hides, as bool.

    Raises:
        ValueError: It adds other numbers than 0 and -inf to the scores.
    """
    if mask.dtype == torch.bool:
        return mask
    hidden = mask == -torch.inf
    if not mask.is_floating_point() or bool((mask.masked_fill(hidden, 0) != 0).any()):
        raise ValueError(
            f"{name} must be bool, or 0 where a key is seen and -inf where it is not: the kernels "
            f"add no bias to the scores; got {mask.dtype} with other values"
        )
    return hidden


def _real(mask: Tensor | None, batch: int, length: int, single: bool) -> Tensor | None:
    """Return which keys are real tokens, bool `(batch, length)`."""
    if mask is None:
        return None
    wanted = (length,) if single else (batch, length)
    if tuple(mask.shape) != wanted:
        raise ValueError(f"key_padding_mask must have shape {wanted}, got {tuple(mask.shape)}")
    return ~_hidden("key_padding_mask", mask).reshape(batch, length)


def _is_causal(mask: Tensor, length: int, claimed: bool) -> bool:
    """Return whether a mask hides the keys after each query, rather than none.

    Raises:
        ValueError: It hides anything else, or nothing although it is said to be causal.
    """
    if mask.ndim not in (2, 3) or tuple(mask.shape[-2:]) != (length, length):
        raise ValueError(
            f"attn_mask must have shape ({length}, {length}) or (batch * heads, {length}, "
            f"{length}), got {tuple(mask.shape)}"
        )
    hidden = _hidden("attn_mask", mask)
    later = torch.ones(length, length, dtype=torch.bool, device=mask.device).triu(1)
    if bool((hidden == later).all()):
        return True
    if claimed or bool(hidden.any()):
        raise ValueError(
            "attn_mask must be causal or hide nothing"
            f"{', and is_causal=True says that it is causal' if claimed else ''}; write what else "
            "it hides as part of the pattern"
        )
    return False
