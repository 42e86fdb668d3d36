"""Self-attention with a sparse pattern, as a module: projections around `attention`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparse_patterns.distributed.context.split import refuse_in_split
from sparse_patterns.kernels.dispatch import check_kernel
from sparse_patterns.nn.kv_cache import KeyValueCache
from sparse_patterns.spec import arguments
from sparse_patterns.spec.algebra import has_global_rows
from sparse_patterns.spec.arguments import data_type, floating, probability
from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.binding import bind
from sparse_patterns.spec.fields import LARGEST, boolean, integer, shown
from sparse_patterns.spec.presets import get
from sparse_patterns.spec.scores import check_scores
from sparse_patterns.spec.validation import check_pattern


class SparseSelfAttention(nn.Module):
    """Multi-head self-attention in which a pattern decides which keys each query sees.

    Takes the place of any self-attention on `(batch, length, embed_dim)`. Inside of
    `distributed.split_over` its input, masks included, is the stretch of this process, and it
    attends over those of all.

    With `global_projections` the rows of global tokens are computed from projections of their own,
    as in Longformer (Beltagy et al. 2020, section 3.1); they start as independent copies of the
    others, and take part in every step, so that no parameter is without a gradient when a batch has
    no global token.

    Args:
        embed_dim: Size of the embeddings; a multiple of `num_heads`.
        num_heads: Number of query heads.
        pattern: A pattern, the name of a registered one, or the config of one.
        kv_heads: Number of key and value heads, which divides `num_heads`; `num_heads` by default.
        layer: Layer of a pattern that varies over layers.
        layers: Number of layers of the model.
        bias: Whether the projections add a bias.
        dropout: Probability that a visible pair is dropped, in training only.
        global_projections: Whether global tokens have query, key and value projections of their
            own.
        output_projection: Whether the joined heads are projected once more. A subclass whose
            surroundings do that passes False: there are no `output` parameters then.
        kernel: Name of the kernel, "auto" or "tune"; see `attention`.
        softcap: As in `attention`.
        sinks: Whether each head learns a sink, which starts at 0: the parameter `sinks`.
        distance_bias: `(num_heads, 2 * m + 1)`, as in `attention`: trained if it is a parameter.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        ValueError: A number is not allowed, or the pattern does not fit the heads and the layer, or
            `global_projections` are wanted for a pattern without global rows.
        TypeError: An argument has the wrong type.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: Pattern | str | Mapping[str, Any],
        *,
        kv_heads: int | None = None,
        layer: int = 0,
        layers: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
        global_projections: bool = False,
        output_projection: bool = True,
        kernel: str = "auto",
        softcap: float | None = None,
        sinks: bool = False,
        distance_bias: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        integer("embed_dim", embed_dim, maximum=LARGEST)
        integer("num_heads", num_heads, maximum=LARGEST)
        kv_heads = num_heads if kv_heads is None else integer("kv_heads", kv_heads)
        if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
            raise ValueError(
                f"embed_dim must be a positive multiple of num_heads, got embed_dim={embed_dim} "
                f"and num_heads={num_heads}"
            )
        if kv_heads < 1 or num_heads % kv_heads:
            raise ValueError(f"kv_heads must divide num_heads ({num_heads}), got {kv_heads}")
        probability("dropout", dropout, below_one=True)
        boolean("bias", bias)
        boolean("global_projections", global_projections)
        boolean("output_projection", output_projection)
        boolean("sinks", sinks)
        self.softcap = check_scores(softcap, None, distance_bias, num_heads)
        check_kernel(kernel)
        if device is not None:
            device = arguments.device("device", device)
        if dtype is not None:
            data_type("dtype", dtype)
        self.pattern = _as_pattern(pattern)
        bind(self.pattern, heads=num_heads, layer=layer, layers=layers)
        if global_projections and not has_global_rows(self.pattern):
            raise ValueError(
                "global_projections need a pattern with global rows, Global(tokens) or "
                f"BatchGlobal(), got {self.pattern!r}"
            )
        self.embed_dim, self.num_heads, self.kv_heads = embed_dim, num_heads, kv_heads
        self.head_dim = embed_dim // num_heads
        self.layer, self.layers = layer, layers
        self.dropout, self.kernel = dropout, kernel
        self.global_projections = global_projections
        kv_dim = kv_heads * self.head_dim
        zeros = torch.zeros(num_heads, device=device, dtype=dtype) if sinks else None
        self.sinks = None if zeros is None else nn.Parameter(zeros)
        if isinstance(distance_bias, nn.Parameter):
            self.distance_bias: Tensor | None = distance_bias
        else:
            self.register_buffer("distance_bias", distance_bias)

        def linear(inputs: int, outputs: int) -> nn.Linear:
            return nn.Linear(inputs, outputs, bias, device, dtype)

        self.query = linear(embed_dim, embed_dim)
        self.key = linear(embed_dim, kv_dim)
        self.value = linear(embed_dim, kv_dim)
        if global_projections:
            self.query_global = linear(embed_dim, embed_dim)
            self.key_global = linear(embed_dim, kv_dim)
            self.value_global = linear(embed_dim, kv_dim)
            self.copy_to_global_projections()
        self.output = linear(embed_dim, embed_dim) if output_projection else nn.Identity()

    def reset_parameters(self) -> None:
        """Draw every projection anew; the global ones become copies of the others again."""
        for projection in self.children():
            if isinstance(projection, nn.Linear):
                projection.reset_parameters()
        if self.sinks is not None:
            nn.init.zeros_(self.sinks)
        if self.global_projections:
            self.copy_to_global_projections()

    @torch.no_grad()
    def copy_to_global_projections(self) -> None:
        """Copy query, key and value projections to the global ones, which stay independent.

        Call it after loading weights, and after training without any global token.

        Raises:
            ValueError: The module was made without `global_projections`.
        """
        if not self.global_projections:
            raise ValueError("the module has no global projections: global_projections=False")
        for source, target in (
            (self.query, self.query_global),
            (self.key, self.key_global),
            (self.value, self.value_global),
        ):
            for name, parameter in target.named_parameters():
                parameter.copy_(source.get_parameter(name))

    def make_cache(self) -> KeyValueCache:
        """Return an empty key/value cache for this layer.

        Raises:
            ValueError: The pattern is not causal, or not known before the call.
        """
        return KeyValueCache(
            self.pattern, heads=self.num_heads, layer=self.layer, layers=self.layers
        )

    def forward(
        self,
        x: Tensor,
        key_mask: Tensor | None = None,
        global_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Attend within each sequence.

        Args:
            x: Embeddings `(batch, length, embed_dim)`.
            key_mask: bool `(batch, length)`, True for a real token.
            global_mask: bool `(batch, length)`, True for a global token, for `BatchGlobal()`.
            segment_ids: Integers `(batch, length)`, for `SameDocument()`.
            cache: From `make_cache`; `x` then holds only the tokens after those it has seen.

        Returns:
            `(batch, length, embed_dim)`. A query that sees no key gives the bias of the output.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: `x` has another shape, or the cache is of another layer or cannot hold what
                is asked.
        """
        self._check_input(x)
        qkv = self._heads(x, self.query, self.key, self.value)
        if cache is not None:
            refuse_in_split("a cache of keys and values")
            self._check_cache(cache, key_mask, global_mask, segment_ids)
            return self._join(cache.attend(*qkv, kernel=self.kernel, **self._scores()))
        global_qkv = self._global_heads(x)
        return self._attend(qkv, self.pattern, global_qkv, key_mask, global_mask, segment_ids)

    def _attend(
        self,
        qkv: tuple[Tensor, Tensor, Tensor],
        pattern: Pattern,
        global_qkv: tuple[Tensor, Tensor, Tensor] | None,
        key_mask: Tensor | None,
        global_mask: Tensor | None,
        segment_ids: Tensor | None,
    ) -> Tensor:
        """Attend by a pattern and join the heads: `(batch, length, embed_dim)`."""
        from sparse_patterns.distributed.context.dispatch import attend

        out = attend(
            *qkv,
            pattern,
            layer=self.layer,
            layers=self.layers,
            key_mask=key_mask,
            global_mask=global_mask,
            global_qkv=global_qkv,
            segment_ids=segment_ids,
            dropout_p=self.dropout if self.training else 0.0,
            kernel=self.kernel,
            **self._scores(),
        )
        return self._join(out)

    def why_not_split(self, training: bool) -> list[str]:
        """Return why the module cannot run where sequences are cut among processes.

        Args:
            training: Whether it is to be trained.
        """
        given = {
            "dropout of attention weights": bool(training and self.dropout),
            "softcap": self.softcap is not None,
            "sinks": self.sinks is not None,
            "distance_bias": self.distance_bias is not None,
        }
        return [name for name, is_given in given.items() if is_given]

    def _scores(self) -> dict[str, Any]:
        """Return what changes the scores, as `attention` takes it."""
        changes = {"softcap": self.softcap, "sinks": self.sinks}
        return {**changes, "distance_bias": self.distance_bias}

    def _heads(
        self, x: Tensor, query: nn.Linear, key: nn.Linear, value: nn.Linear
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project to `(batch, heads, length, head_dim)`."""
        q, k, v = (
            projection(x).unflatten(2, (-1, self.head_dim)).transpose(1, 2)
            for projection in (query, key, value)
        )
        return q, k, v

    def _global_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Project for the rows of global tokens; None without projections of their own."""
        if not self.global_projections:
            return None
        return self._heads(x, self.query_global, self.key_global, self.value_global)

    def _join(self, out: Tensor) -> Tensor:
        joined: Tensor = self.output(out.transpose(1, 2).flatten(2))
        return joined

    def _check_input(self, x: Tensor) -> None:
        floating("x", x)
        if x.ndim != 3 or x.shape[2] != self.embed_dim:
            raise ValueError(
                f"x must have shape (batch, length, {self.embed_dim}), got {tuple(x.shape)}"
            )

    def _check_cache(self, cache: KeyValueCache, *masks: Tensor | None) -> None:
        if not isinstance(cache, KeyValueCache):
            raise TypeError(f"cache must be a KeyValueCache, got {shown(cache)}")
        if any(mask is not None for mask in masks):
            raise ValueError("a cache takes no key_mask, global_mask or segment_ids")
        if self.global_projections:
            raise ValueError("a cache does not serve a module with global_projections")
        if self.training and self.dropout:
            raise ValueError(f"a cache has no dropout ({self.dropout}); call module.eval() first")
        made_for = (cache.pattern, cache.heads, cache.layer, cache.layers)
        if made_for != (self.pattern, self.num_heads, self.layer, self.layers):
            raise ValueError(
                f"the cache is of another layer: it has pattern {cache.pattern!r}, {cache.heads} "
                f"heads, layer {cache.layer} of {cache.layers}; use make_cache()"
            )

    def extra_repr(self) -> str:
        """Return what the projections do not show."""
        shown = [
            f"{self.pattern!r}",
            f"num_heads={self.num_heads}",
            f"kv_heads={self.kv_heads}" if self.kv_heads != self.num_heads else "",
            f"layer={self.layer}, layers={self.layers}" if self.layers > 1 else "",
            f"dropout={self.dropout}" if self.dropout else "",
            f"kernel={self.kernel!r}" if self.kernel != "auto" else "",
            f"softcap={self.softcap}" if self.softcap is not None else "",
            "sinks=True" if self.sinks is not None else "",
            ""
            if self.distance_bias is None
            else f"distance_bias of {tuple(self.distance_bias.shape)}",
        ]
        return ", ".join(filter(None, shown))


def _as_pattern(pattern: Any) -> Pattern:
    """Look a name up, or build what a config describes."""
    if isinstance(pattern, str):
        return check_pattern(get(pattern))
    if isinstance(pattern, Mapping):
        from sparse_patterns.config.codec import from_config

        return check_pattern(from_config(pattern))
    return check_pattern(pattern)
