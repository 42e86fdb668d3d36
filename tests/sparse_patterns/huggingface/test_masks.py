"""What a model's mask is read as, against the dense mask that `transformers` makes of it."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import masking_utils as hf

import sparse_patterns as sp
from sparse_patterns.huggingface.masks import ModelMask, pattern_of, read_mask

NO_PADDING = torch.zeros(2, dtype=torch.long)
MASKS: dict[str, Callable[..., Any]] = {
    "causal": hf.causal_mask_function,
    "everything": hf.bidirectional_mask_function,
    "window": hf.sliding_window_causal_mask_function(4),
    "window both ways": hf.sliding_window_bidirectional_mask_function(3),
    "window that sees later keys": hf.sliding_window_overlay(4),
    "chunks": hf.chunked_causal_mask_function(5, NO_PADDING),
}


def ask(mask_function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    sizes = {"batch_size": 2, "q_length": 14, "kv_length": 14, "q_offset": 0, "kv_offset": 0}
    return {**sizes, "mask_function": mask_function, **options}


def seen_by(mask: ModelMask, pattern: sp.Pattern, **given: Tensor) -> Tensor:
    offset = mask.q_offset - mask.kv_offset
    return sp.dense_mask(pattern, mask.q_len, mask.kv_len, heads=1, q_offset=offset, **given)


@pytest.mark.parametrize("name", MASKS)
def test_the_pairs_are_those_of_the_dense_mask(name: str) -> None:
    given = ask(MASKS[name])
    wanted = hf.sdpa_mask(**given, allow_is_causal_skip=False)[0]
    mask = read_mask(**given)
    assert torch.equal(seen_by(mask, pattern_of(mask.limits)), wanted)
    assert mask.real is None
    assert mask.documents is None


@pytest.mark.parametrize("kv_offset", [0, 6])
def test_places_of_queries_and_keys_with_a_cache(kv_offset: int) -> None:
    sizes = {"q_length": 3, "kv_length": 14 - kv_offset, "q_offset": 11, "kv_offset": kv_offset}
    given = ask(MASKS["window"], **sizes)
    wanted = hf.sdpa_mask(**given, allow_is_causal_skip=False)[0]
    mask = read_mask(**given)
    assert torch.equal(seen_by(mask, pattern_of(mask.limits)), wanted)


def test_packed_documents() -> None:
    places = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6, 0, 1]] * 2)
    documents = hf.find_packed_sequence_indices(places)
    inner = hf.remap_positions_for_packed_sequence(MASKS["window"], places)
    function = hf.and_masks(inner, hf.packed_sequence_mask_function(documents))
    given = ask(function)
    wanted = hf.sdpa_mask(**given, allow_is_causal_skip=False)
    mask = read_mask(**given)
    pattern = pattern_of(mask.limits) & sp.SameDocument()
    assert torch.equal(seen_by(mask, pattern, segment_ids=mask.documents), wanted)
    assert torch.equal(mask.positions, places)


def test_padding_is_kept() -> None:
    real = torch.ones(2, 14, dtype=torch.bool)
    assert read_mask(**ask(MASKS["causal"], attention_mask=real)).real is None
    real[0, :3] = False
    real[1, 9:] = False
    mask = read_mask(**ask(MASKS["causal"], attention_mask=real))
    assert torch.equal(mask.real, real)


def first_half(batch: Any, head: Any, q: Tensor, k: Tensor) -> Tensor:
    return k < 7


REFUSED = {
    "a union": (
        hf.or_masks(hf.causal_mask_function, first_half),
        {},
        r"no pattern: \(nothing \| \(key <= query\)\) \| \(key < 7\)",
    ),
    "another's function": (
        hf.and_masks(hf.causal_mask_function, first_half),
        {},
        "no pattern: key < 7",
    ),
    "no function": (functools.partial(first_half, 0), {}, r"no pattern: functools\.partial"),
    "moved chunks": (
        hf.chunked_causal_mask_function(5, torch.tensor([0, 2])),
        {},
        "pad on the right",
    ),
    "positions without documents": (
        hf.remap_positions_for_packed_sequence(MASKS["chunks"], torch.zeros(2, 14)),
        {},
        "no documents",
    ),
    "another sequence": (
        hf.bidirectional_mask_function,
        {"kv_length": 20},
        "position 14 and keys at 20",
    ),
    "a mask of pairs": (
        hf.causal_mask_function,
        {"attention_mask": torch.ones(2, 14, 14)},
        r"\(2, 14\), got \(2, 14, 14\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_pattern_is_refused(case: str) -> None:
    function, options, why = REFUSED[case]
    with pytest.raises(ValueError, match=why):
        read_mask(**ask(function, **options))


@pytest.mark.parametrize("name", ["causal", "window"])
def test_keys_that_a_static_cache_has_room_for_are_left_out(name: str) -> None:
    sizes = {"q_length": 3, "kv_length": 20, "q_offset": torch.tensor(11)}
    mask = read_mask(**ask(MASKS[name], **sizes))
    assert (mask.q_offset, mask.kv_len, mask.room) == (11, 14, 6)
    wanted = hf.sdpa_mask(**ask(MASKS[name], **sizes), allow_is_causal_skip=False)[0]
    assert torch.equal(seen_by(mask, pattern_of(mask.limits)), wanted[..., :14])
    assert not wanted[..., 14:].any()


@pytest.mark.parametrize("name", MASKS)
def test_a_compiled_model_reads_the_same(name: str) -> None:
    """Of functions that are made inside of it, as models do."""
    make = {
        "window": lambda: hf.sliding_window_causal_mask_function(4),
        "window both ways": lambda: hf.sliding_window_bidirectional_mask_function(3),
        "window that sees later keys": lambda: hf.sliding_window_overlay(4),
        "chunks": lambda: hf.chunked_causal_mask_function(5, torch.zeros(2).long()),
    }.get(name, lambda: MASKS[name])

    def read(x: Tensor) -> Any:
        mask = read_mask(**ask(make()))
        return x + 1, mask.limits

    limits = torch.compile(read, fullgraph=True, backend="eager")(torch.zeros(1))[1]
    assert limits == read_mask(**ask(MASKS[name])).limits
