"""Small checkpoints as `transformers` writes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

transformers = pytest.importorskip("transformers")

SIZES = dict(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=66,
)


@pytest.fixture
def theirs() -> Callable[..., Any]:
    """Makes a model of `transformers` with weights that matter: Roberta, Bert or Longformer."""

    def make(class_name: str = "RobertaModel", **fields: Any) -> Any:
        family = class_name.partition("For")[0].removesuffix("Model")
        sizes = {**SIZES, **({"attention_window": [4, 8]} if family == "Longformer" else {})}
        config = getattr(transformers, f"{family}Config")(**{**sizes, **fields})
        model = getattr(transformers, class_name)(config).eval()
        for name, parameter in model.named_parameters():
            nn.init.normal_(parameter, mean=1.0 if "LayerNorm.weight" in name else 0.0, std=0.15)
        return model

    return make


@pytest.fixture
def folder(tmp_path: Path, theirs: Callable[..., Any]) -> Path:
    """A folder with a small RoBERTa, as `save_pretrained` leaves it."""
    theirs().save_pretrained(tmp_path / "roberta")
    return tmp_path / "roberta"
