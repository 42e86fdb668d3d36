"""What a model does to its scores, as `attention` takes it: caps, sinks, and T5's bias.

T5 makes a bias of all pairs in its first layer and hands it to the others. With a pattern its
modules make the table of distances in its place, which takes memory in proportion to the distances.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import Tensor, nn

from sparse_patterns.spec.scores import t5_bias

SINKS = ("s_aux", "sinks")
"""Names that models give their sinks."""


def makes_table(module: nn.Module) -> bool:
    """Return whether an attention module makes T5's bias, by the names of its parts."""
    names = ("compute_bias", "_relative_position_bucket", "relative_attention_max_distance")
    return all(hasattr(module, name) for name in names)


def leave_tables(module: nn.Module) -> None:
    """Let a module of T5 hand on a table of distances, as long as the model has a pattern."""
    if makes_table(module):
        vars(module)["compute_bias"] = MethodType(_compute_bias, module)


def _compute_bias(self: Any, *lengths: Any, **given: Any) -> Tensor:
    """Return the table `(heads, 2 * m + 1)` with a pattern, else what the model would."""
    if self.config._attn_implementation != "sparse_patterns":
        bias: Tensor = type(self).compute_bias(self, *lengths, **given)
        return bias
    far = self.relative_attention_max_distance
    return t5_bias(self.relative_attention_bias.weight, far, not self.is_decoder, far)


def take_scores(module: nn.Module, asked: dict[str, Any]) -> dict[str, Any]:
    """Take what changes the scores out of the arguments of an attention module.

    Args:
        module: The module.
        asked: Arguments by name; those of scores are taken out.

    Returns:
        `softcap`, `sinks` and `distance_bias` of `attention`.

    Raises:
        ValueError: A bias is of pairs.
    """
    found = {"softcap": asked.pop("softcap", None)}
    given = [asked.pop(name, None) for name in SINKS]
    sinks = [one for one in given if one is not None]
    bias = asked.pop("position_bias", None)
    if bias is not None and bias.ndim != 2:
        raise ValueError(
            f"{type(module).__name__} asks for position_bias of shape {tuple(bias.shape)}, which a "
            "sparse pattern cannot have: the kernels add a bias by distance, of shape "
            "(heads, 2 * m + 1), and none of pairs"
        )
    return {**found, "sinks": sinks[0] if sinks else None, "distance_bias": bias}
