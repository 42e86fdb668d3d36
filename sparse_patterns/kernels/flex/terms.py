"""What changes scores, as FlexAttention takes it: a function of one score and its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sparse_patterns.kernels.scores.terms import Distances

FlexTerms = tuple[Tensor | None, Tensor | None, float | None]
"""The bias, `(heads, distances)` or one for each example, and the index of row 0 with key 0, or
None; and the cap."""


def terms_of(call: Any) -> FlexTerms | None:
    """Return what changes the scores of a `kernels.base.Call`, None where nothing does."""
    if call.scores.plain:
        return None
    distances = Distances.of_call(call)
    if distances is None:
        return None, None, call.scores.softcap
    # A number would be compiled in, and there is one for each step of a generation.
    first = distances.origin - distances.q_offset
    place = torch.full((1,), first, device=distances.values.device)
    values = distances.values.detach()
    values = values if values.shape[0] > 1 else values[0]
    return values.contiguous(), place, call.scores.softcap


@contextmanager
def recording() -> Iterator[None]:
    """Let gradients be recorded inside of an operator, where they are not.

    The backward operator of FlexAttention finds the derivative of a score in this way.
    """
    exclude = torch._C._dispatch_tls_local_exclude_set()
    for key in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor"):
        exclude = exclude.remove(getattr(torch._C.DispatchKey, key))
    include = torch._C._dispatch_tls_local_include_set()
    with torch._C._ForceDispatchKeyGuard(include, exclude), torch.enable_grad():
        yield


def score_mod(terms: FlexTerms) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return the function that changes a score."""
    softcap = terms[2]

    def change(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        score = _biased(terms, score, b, h, q, k)
        return score if softcap is None else softcap * torch.tanh(score / softcap)

    return change


def score_grad(terms: FlexTerms) -> Callable[..., list[Tensor | None]]:
    """Return the function that turns the gradient of a changed score into that of the score."""
    softcap = terms[2]

    def change(
        score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor, grad: Tensor
    ) -> list[Tensor | None]:
        if softcap is not None:
            bent = torch.tanh(_biased(terms, score, b, h, q, k) / softcap)
            grad = grad * (1 - bent * bent)
        return [grad, None, None, None, None]

    return change


def _biased(terms: FlexTerms, score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    values, place, _ = terms
    if values is None or place is None:
        return score
    # Called with places behind the last query and key, too.
    index = (place[0] + k - q).clamp(0, values.shape[-1] - 1)
    if values.requires_grad:
        # FlexAttention knows the gradient of what is read by brackets.
        return score + (values[h, index] if values.ndim == 2 else values[b, h, index])
    at = [h, index] if values.ndim == 2 else [b, h, index]
    # By brackets, a place that is a tensor would be read on the host.
    return score + torch.ops.aten.index.Tensor(values, at)
