"""Which documents lie in a row, by any of the ways in which `transformers` says so.

A row of several documents comes with `position_ids` that start over, with `seq_idx`, or with
`cu_seq_lens_q` (what `DataCollatorWithFlattening` returns). The first is in the mask of a model
where no cache is used and nothing is padded; the others arrive as arguments of the attention.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_patterns.huggingface.masks import ModelMask


def documents_in(
    mask: ModelMask,
    batch: int,
    *,
    position_ids: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
) -> Tensor | None:
    """Return the document of each token, as numbers that start over in no row; None if not packed.

    Args:
        mask: What the model masks, and the documents that it knows of.
        batch: Number of examples.
        position_ids: int `(batch or 1, length)`; documents start where it does not grow by one.
        seq_idx: int `(batch or 1, length)`, the number of each token's document.
        cu_seq_lens_q: int `(documents + 1,)`, where documents start in the flattened batch, and its
            end.
        cu_seq_lens_k: The same of the keys.

    Raises:
        ValueError: They have another shape, contradict each other or come with a cache of earlier
            tokens; or the model's chunks do not start over with each document.
    """
    key = (position_ids, seq_idx, cu_seq_lens_q, cu_seq_lens_k)
    known = mask.kept.get("documents")
    # The layers of a model give the same tensors; reading them waits for the device.
    if known is None or any(a is not b for a, b in zip(known[0], key, strict=True)):
        known = (key, _find(mask, batch, *key))
        mask.kept["documents"] = known
    found: Tensor | None = known[1]
    return found


def _find(
    mask: ModelMask,
    batch: int,
    position_ids: Tensor | None,
    seq_idx: Tensor | None,
    lens_q: Tensor | None,
    lens_k: Tensor | None,
) -> Tensor | None:
    length, tracing = mask.q_len, torch.compiler.is_compiling()
    if mask.start is not None or mask.q_offset or mask.kv_len != length:
        if any(x is not None for x in (seq_idx, lens_q, lens_k)):
            raise ValueError(
                "packed rows (seq_idx, cu_seq_lens_q) cannot go on from a cache of earlier tokens"
            )
        if mask.start is not None and length > 1 and _is_row(position_ids, batch, length):
            assert position_ids is not None
            starts_over = (position_ids.diff(dim=1) != 1).any()
            mask.refused[
                "documents of a packed row (position_ids that start over) cannot be read into a "
                "static cache inside of a compiled model; leave the prompt uncompiled"
            ] = starts_over if mask.real is None else starts_over & _all_real(mask)
        return None
    starts: dict[str, Tensor] = {}
    if seq_idx is not None:
        if not _is_row(seq_idx, batch, length):
            raise ValueError(
                f"seq_idx must have shape (batch, length) = ({batch}, {length}), "
                f"got {tuple(seq_idx.shape)}"
            )
        starts["seq_idx"] = _changes(seq_idx)
    for name, lens in (("cu_seq_lens_q", lens_q), ("cu_seq_lens_k", lens_k)):
        if lens is not None:
            starts[name] = _changes(_by_bounds(mask, name, lens, batch, length))
    if mask.documents is not None:
        starts["position_ids"] = _changes(mask.documents)
    elif (mask.real is None or tracing) and _is_row(position_ids, batch, length):
        # With an empty cache the model does not look for documents, and its mask has none.
        assert position_ids is not None
        starts["position_ids"] = position_ids.diff(dim=1) != 1
        if mask.real is not None:
            # Where a row is padded, positions start over without another document.
            others = [one for name, one in starts.items() if name != "position_ids"]
            otherwise = others[0] if others else torch.zeros_like(starts["position_ids"])
            starts["position_ids"] = torch.where(_all_real(mask), starts["position_ids"], otherwise)
    if "position_ids" in starts:
        starts = {"position_ids": starts.pop("position_ids"), **starts}
    starts = {name: one.expand(batch, -1) for name, one in starts.items()}
    if not starts or length == 0:
        return None
    source, first = next(iter(starts.items()))
    for name, other in starts.items():
        if name == source:
            continue
        _refuse(
            mask,
            (first != other).any(),
            f"{name} and {source} must tell the same documents of a packed row, "
            "but documents start at other places in one than in the other",
        )
    if not tracing and not bool(first.any()):
        return None
    documents = torch.cat([first.new_zeros(batch, 1, dtype=torch.int64), first.cumsum(1)], 1)
    _check_chunks(mask, documents)
    return documents


def _all_real(mask: ModelMask) -> Tensor:
    assert mask.real is not None
    return mask.real.all()


def _refuse(mask: ModelMask, wrong: Tensor, reason: str) -> None:
    """Refuse a call for a reason; inside of a compiled model, when it runs."""
    if torch.compiler.is_compiling():
        mask.refused[reason] = wrong
    elif bool(wrong):
        raise ValueError(reason)


def _is_row(x: Tensor | None, batch: int, length: int) -> bool:
    return x is not None and x.ndim == 2 and x.shape[0] in (1, batch) and x.shape[1] == length


def _changes(x: Tensor) -> Tensor:
    return x[:, 1:] != x[:, :-1]


def _by_bounds(mask: ModelMask, name: str, bounds: Tensor, batch: int, length: int) -> Tensor:
    """Return the number of each token's document, `(batch, length)`."""
    total = batch * length
    reason = f"{name} must be integers that grow from 0 to the number of tokens"
    if not torch.compiler.is_compiling():
        reason += f", {total}, got {bounds.tolist()}"
    if bounds.ndim != 1 or bounds.numel() < 2 or bounds.is_floating_point():
        raise ValueError(reason)
    wrong = (bounds[0] != 0) | (bounds[-1] != total) | (bounds.diff() < 0).any()
    _refuse(mask, wrong, reason)
    places = torch.arange(total, device=bounds.device, dtype=bounds.dtype)
    return torch.searchsorted(bounds, places, right=True).view(batch, length)


def _check_chunks(mask: ModelMask, documents: Tensor) -> None:
    """Refuse chunks that do not start with the document: their places follow `position_ids`."""
    positions = mask.positions
    if positions is None or not any(kind == "chunk" for kind, _ in mask.limits):
        return
    starts = F.pad(_changes(documents), (1, 0), value=True)
    _refuse(
        mask,
        (starts & (positions.expand_as(documents) != 0)).any(),
        "the chunks of this model follow position_ids, which must start at 0 in each document",
    )
