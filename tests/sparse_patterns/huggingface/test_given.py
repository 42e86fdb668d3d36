"""Masks of a batch for models that lose them on the way, and for generation."""

import copy
import pickle
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import sparse_patterns as sp
from sparse_patterns.huggingface import batch_masks, set_pattern
from tests.huggingface_reference import with_reference
from tests.sparse_patterns.huggingface.models import LENGTH, close, llama, qwen2, some_ids
from tests.sparse_patterns.huggingface.small import inputs, make, run

pytestmark = pytest.mark.usefixtures("one_thread")

PATTERN = sp.Window(2, 2) | sp.BatchGlobal()
MISSING = r"got no global_mask, which the pattern needs for BatchGlobal\(\).*batch_masks"


def marks(batch: int = 2, length: int = LENGTH) -> Tensor:
    found = torch.zeros(batch, length, dtype=torch.bool)
    found[:, [1, length // 2]] = True
    return found


# They do not pass unknown arguments on to their attention.
@pytest.mark.parametrize("name", ["stablelm", "nemotron", "siglip_vision_model", "hubert"])
def test_models_that_drop_masks(name: str) -> None:
    model = set_pattern(make(name), PATTERN)
    length = seen_length(model)
    with pytest.raises(ValueError, match=MISSING):
        run(model)
    with batch_masks(model, global_mask=marks(2, length)):
        got = run(model)
    tokens = tuple(marks(1, length)[0].nonzero().flatten().tolist())
    with with_reference(model, sp.Window(2, 2) | sp.Global(tokens)):
        wanted = run(model)
    assert (got - wanted).abs().max() < 1e-5 * wanted.abs().max()
    # Outside, the masks are forgotten.
    with pytest.raises(ValueError, match=MISSING):
        run(model)


def seen_length(model: nn.Module) -> int:
    """Tokens that the attention sees."""
    out = set_pattern(copy.deepcopy(model), sp.Full())
    return run(out).shape[1]


@pytest.mark.parametrize("make_", [llama, qwen2])
@pytest.mark.parametrize("use_cache", [False, True])
def test_generation_with_global_tokens(make_: Any, use_cache: bool) -> None:
    """New tokens are not global."""
    model, ids = set_pattern(make_(), PATTERN), some_ids(length=9)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "use_cache": use_cache}
    with batch_masks(model, global_mask=marks(length=9)):
        made = model.generate(ids, **options)
    for _ in range(4):
        given = torch.nn.functional.pad(marks(length=9), (0, ids.shape[1] - 9))
        following = model(ids, global_mask=given, use_cache=False).logits[:, -1].argmax(-1)
        ids = torch.cat([ids, following[:, None]], 1)
    assert torch.equal(made, ids)


def test_beams_take_a_row_each() -> None:
    model, ids = set_pattern(llama(), PATTERN), some_ids(length=8)
    options = {"num_beams": 2, "max_new_tokens": 3, "do_sample": False}
    with batch_masks(model, global_mask=marks(length=8).repeat_interleave(2, 0)):
        assert model.generate(ids, **options).shape[0] == 2
    with (
        batch_masks(model, global_mask=marks(length=8)),
        pytest.raises(ValueError, match=r"global_mask must have shape.*\(4, 8\), got \(2, 8\)"),
    ):
        model.generate(ids, **options)


def test_a_given_argument_is_the_same() -> None:
    model, ids = set_pattern(llama(), PATTERN & sp.SameDocument()), some_ids()
    documents = (torch.arange(LENGTH) // 8).expand(2, -1)
    wanted = model(ids, global_mask=marks(), segment_ids=documents).logits
    with batch_masks(model, global_mask=marks(), segment_ids=documents):
        assert torch.equal(model(ids).logits, wanted)
        # Of a part alone too.
        assert model.model(ids).last_hidden_state.shape == (2, LENGTH, 32)
        with pytest.raises(ValueError, match="given to the model and by batch_masks"):
            model(ids, global_mask=marks())
    with batch_masks(model, global_mask=marks()), pytest.raises(ValueError, match="got no segment"):
        model(ids)
    with (
        batch_masks(model, global_mask=marks(length=30)),
        pytest.raises(ValueError, match=r"at most as many tokens as there are, 22, got.*30"),
    ):
        model(ids)


def test_copies_and_pickles_take_no_masks() -> None:
    model, ids = set_pattern(llama(), PATTERN), some_ids()
    with batch_masks(model, global_mask=marks()):
        others = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for other in others:
        with pytest.raises(ValueError, match=MISSING):
            other(ids)
        with batch_masks(other, global_mask=marks()):
            close(other(ids).logits, model(ids, global_mask=marks()).logits)


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "nothing": ({}, ValueError, "needs global_mask or segment_ids"),
    "numbers": ({"global_mask": torch.zeros(2, 3)}, TypeError, "global_mask must be bool"),
    "a list": ({"segment_ids": [1]}, TypeError, "segment_ids"),
    "one dimension": (
        {"global_mask": torch.ones(3) > 0},
        ValueError,
        r"length\), got \(3,",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_masks_are_refused(case: str) -> None:
    given, kind, why = WRONG[case]
    with pytest.raises(kind, match=why), batch_masks(set_pattern(llama(), PATTERN), **given):
        pass


def test_a_model_without_a_pattern_is_refused() -> None:
    model = transformers.RobertaModel(transformers.RobertaConfig(num_hidden_layers=1))
    with (
        pytest.raises(ValueError, match="RobertaModel has no pattern"),
        batch_masks(model, global_mask=marks()),
    ):
        pass
    assert inputs(model)["input_ids"].shape == (2, 12)
