"""The heads give the logits of `transformers` from the same weights, loaded from its folders."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_modules.classification import Classification
from lit_modules.extractive_qa import ExtractiveQA
from lit_modules.pretrained.backbone import EncoderSettings
from lit_modules.pretrained.files import WeightsError

transformers = pytest.importorskip("transformers")

LENGTH = 40


@pytest.fixture(scope="module")
def config() -> Any:
    transformers.logging.set_verbosity_error()
    return transformers.LongformerConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LENGTH + 2,
        attention_window=8,
        num_labels=3,
    )


def batch() -> dict[str, Any]:
    ids = torch.randint(5, 50, (3, LENGTH))
    real = torch.arange(LENGTH) < torch.tensor([40, 32, 9])[:, None]
    marks = torch.zeros(3, LENGTH, dtype=torch.bool)
    marks[:, 0] = marks[0, 3] = True
    return {
        "input_ids": ids.masked_fill(~real, 1),
        "key_mask": real,
        "global_mask": marks,
        "example": torch.arange(3),
        "ids": ["a", "b", "c"],
    }


def saved(model: Any, folder: Path) -> Any:
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return model.eval()


def theirs(made: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {
        "input_ids": made["input_ids"],
        "attention_mask": made["key_mask"].long(),
        "global_attention_mask": made["global_mask"].long(),
    }


@torch.no_grad()
def test_classification(config: Any, tmp_path: Path) -> None:
    model = saved(transformers.LongformerForSequenceClassification(config), tmp_path)
    ours = Classification(50, classes=3, encoder=settings(tmp_path), pretrained_head=True)
    made = batch()
    expected = model(**theirs(made)).logits
    torch.testing.assert_close(ours.eval()(made), expected, atol=2e-5, rtol=0)
    fresh = Classification(50, classes=3, encoder=settings(tmp_path))
    assert (fresh.eval()(made) - expected).abs().max() > 0.1
    losses, counts = ours.losses(ours(made), {**made, "labels": torch.tensor([2, 0, 1])})
    loss = model(**theirs(made), labels=torch.tensor([2, 0, 1])).loss
    torch.testing.assert_close(losses[counts].mean(), loss, atol=2e-5, rtol=0)


@torch.no_grad()
def test_extractive_qa(config: Any, tmp_path: Path) -> None:
    # Its own marks of the question need three separators; ours are given.
    two = transformers.LongformerConfig(**{**config.to_dict(), "num_labels": 2})
    model = saved(transformers.LongformerForQuestionAnswering(two), tmp_path)
    ours = ExtractiveQA(50, encoder=settings(tmp_path), pretrained_head=True)
    made = batch()
    expected = model(**theirs(made))
    found = ours.eval()(made)
    torch.testing.assert_close(found.starts, expected.start_logits, atol=2e-5, rtol=0)
    torch.testing.assert_close(found.ends, expected.end_logits, atol=2e-5, rtol=0)


def test_a_head_that_does_not_fit_is_refused(config: Any, tmp_path: Path) -> None:
    saved(transformers.LongformerForSequenceClassification(config), tmp_path)
    with pytest.raises(
        WeightsError, match=r"classifier.out_proj.weight is \(3, 16\), the head needs \(2, 16\)"
    ):
        Classification(50, classes=2, encoder=settings(tmp_path), pretrained_head=True)
    with pytest.raises(WeightsError, match=r"qa_outputs\.weight is missing"):
        ExtractiveQA(50, encoder=settings(tmp_path), pretrained_head=True)
    with pytest.raises(ValueError, match="pretrained_head needs the path of weights"):
        Classification(50, pretrained_head=True)


def settings(folder: Path) -> EncoderSettings:
    return EncoderSettings(path=str(folder))
