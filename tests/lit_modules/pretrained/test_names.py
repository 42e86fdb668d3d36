"""Names in checkpoints: any prefix, old spellings, what belongs to the encoder."""

import pytest
import torch

from lit_modules.pretrained.files import WeightsError
from lit_modules.pretrained.names import sort

WORDS = "embeddings.word_embeddings.weight"
NAMES = [WORDS, "embeddings.LayerNorm.weight", "encoder.layer.0.attention.self.query.weight"]


def state(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.full((1,), float(number)) for number, name in enumerate(names)}


@pytest.mark.parametrize(
    "prefix", ["", "roberta.", "bert.", "longformer.", "model.", "model.encoder.roberta."]
)
def test_any_prefix(prefix):
    found = sort(state(*(prefix + name for name in NAMES), "lm_head.bias"), "it")
    assert list(found.encoder) == NAMES
    assert list(found.heads) == ["lm_head.bias"]
    assert (found.prefix, found.renamed, found.buffers) == (prefix, 0, ())


def test_old_spellings_and_constants():
    names = [
        WORDS,
        "embeddings.LayerNorm.gamma",
        "embeddings.LayerNorm.beta",
        "embeddings.position_ids",
    ]
    found = sort(state(*("bert." + name for name in names)), "it")
    assert list(found.encoder) == [
        WORDS,
        "embeddings.LayerNorm.weight",
        "embeddings.LayerNorm.bias",
    ]
    assert found.renamed == 2
    assert found.buffers == ("bert.embeddings.position_ids",)
    with pytest.raises(WeightsError, match=r"LayerNorm.weight in an old and a new spelling"):
        sort(state(WORDS, "embeddings.LayerNorm.gamma", "embeddings.LayerNorm.weight"), "it")


def test_heads_without_the_prefix_are_heads():
    found = sort(state(*("roberta." + name for name in NAMES), "encoder.mine"), "it")
    assert list(found.heads) == ["encoder.mine"]


def test_nothing_or_several_encoders():
    with pytest.raises(WeightsError, match=r"nothing in it matches: .*it has 2 names such as x, y"):
        sort(state("x", "y"), "it")
    with pytest.raises(WeightsError, match=r"2 encoders, with the prefixes 'a.', 'b.'"):
        sort(state(f"a.{WORDS}", f"b.{WORDS}"), "it")
