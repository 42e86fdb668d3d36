"""Positions counted from each text's first token, against each text alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

import sparse_patterns as sp
from sparse_patterns.huggingface.masks import ModelMask
from sparse_patterns.huggingface.positions import attend_texts

LENGTH = 12
TEXTS = [(0, 12), (4, 12), (0, 9), (3, 7), (0, 0)]
PATTERN = sp.LocalBlock(5) | sp.Global((0,))


def inputs(q_len: int = LENGTH, kv_len: int = LENGTH) -> list[Tensor]:
    return [torch.randn(len(TEXTS), 2, n, 4).double() for n in (q_len, kv_len, kv_len)]


def real_tokens() -> Tensor:
    real = torch.zeros(len(TEXTS), LENGTH, dtype=torch.bool)
    for example, (start, stop) in enumerate(TEXTS):
        real[example, start:stop] = True
    return real


def attend(qkv: list[Tensor], pattern: sp.Pattern, mask: ModelMask, **options: Any) -> Tensor:
    given: dict[str, Any] = {"layer": 0, "layers": 1, "scale": None, "dropout_p": 0.0}
    given |= {"global_mask": None, "segment_ids": None, **options}
    return attend_texts(*qkv, pattern, mask, **given)


def close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "pattern",
    [PATTERN, sp.Window(2, 1), sp.Global((-1,)) | sp.Window(1, 1), sp.RandomBlocks(3, 2)],
    ids=repr,
)
def test_each_text_is_as_if_alone_and_padding_is_zeros(pattern: sp.Pattern) -> None:
    qkv = inputs()
    mask = ModelMask((), LENGTH, LENGTH, real=real_tokens())
    out = attend(qkv, pattern, mask)
    for example, (start, stop) in enumerate(TEXTS):
        alone = sp.attention(*(x[example : example + 1, :, start:stop] for x in qkv), pattern)
        close(out[example, :, start:stop], alone[0])
        assert not out[example, :, :start].any()
        assert not out[example, :, stop:].any()


def test_tensors_of_the_batch_follow_the_texts() -> None:
    qkv = inputs()
    given = {
        "global_mask": torch.rand(len(TEXTS), LENGTH) < 0.3,
        "segment_ids": torch.randint(2, (len(TEXTS), LENGTH)),
    }
    pattern = PATTERN & sp.SameDocument() | sp.BatchGlobal()
    out = attend(qkv, pattern, ModelMask((), LENGTH, LENGTH, real=real_tokens()), **given)
    for example, (start, stop) in enumerate(TEXTS):
        part = (slice(example, example + 1), slice(start, stop))
        alone = sp.attention(
            *(x[example : example + 1, :, start:stop] for x in qkv),
            pattern,
            **{name: tensor[part] for name, tensor in given.items()},
        )
        close(out[example, :, start:stop], alone[0])


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("dropped", [0, 2, 5])
def test_keys_that_a_cache_dropped_keep_their_places_and_stay_unseen(
    dropped: int, padded: bool
) -> None:
    """Texts that end before the new tokens have none that are real."""
    q, k, v = inputs(q_len=3)
    real = real_tokens() if padded else torch.ones(len(TEXTS), LENGTH, dtype=torch.bool)
    kept = [q, k[:, :, dropped:], v[:, :, dropped:]]
    mask = ModelMask((), 3, LENGTH - dropped, LENGTH - 3, dropped, real if padded else None)
    out = attend(kept, PATTERN, mask)
    real[:, :dropped] = False
    for example, (start, _) in enumerate(TEXTS if padded else [(0, LENGTH)] * len(TEXTS)):
        one = slice(example, example + 1)
        alone = sp.attention(
            q[one],
            k[one, :, start:],
            v[one, :, start:],
            PATTERN,
            q_offset=LENGTH - 3 - start,
            key_mask=real[one, start:],
        )
        close(out[one], alone)


def test_what_depends_on_the_length_is_refused_with_a_cache() -> None:
    mask = ModelMask((), 3, LENGTH, LENGTH - 3)
    for pattern in (sp.RandomBlocks(3, 1), sp.Window(1, 1) | sp.Global((-2,))):
        with pytest.raises(ValueError, match="depends on the final length"):
            attend(inputs(q_len=3), pattern, mask)
