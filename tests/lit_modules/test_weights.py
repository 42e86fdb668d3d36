"""The public functions of pretrained weights, together."""

from pathlib import Path

import pytest
import torch

from lit_modules import weights
from lit_modules.nn.encoder.config import EncoderConfig
from lit_modules.nn.encoder.encoder import Encoder

CONFIG = EncoderConfig(
    vocabulary_size=20, layers=1, heads=2, width=8, positions=18, pad_id=1, pooler=False
)


def test_the_public_names() -> None:
    assert set(weights.__all__) == {
        "LoadReport",
        "LongReport",
        "WeightsError",
        "check_long",
        "copy_tokenizer",
        "load_encoder",
        "load_masked_lm",
        "make_long",
        "save_encoder",
        "save_masked_lm",
    }
    assert all(hasattr(weights, name) for name in weights.__all__)


def test_an_encoder_that_is_saved_made_long_and_loaded_gives_the_numbers_of_the_short_one(
    tmp_path: Path,
) -> None:
    pytest.importorskip("safetensors")
    torch.manual_seed(0)
    short = Encoder(CONFIG).eval()
    weights.save_encoder(short, tmp_path / "short")
    loaded = weights.load_encoder(tmp_path / "short")
    assert isinstance(loaded.report, weights.LoadReport)
    long = weights.make_long(loaded, max_length=64, window=16)
    assert isinstance(long.report, weights.LongReport)
    weights.save_encoder(long, tmp_path / "long")
    ids = torch.randint(2, 20, (2, 9))
    expected = short(ids).hidden
    torch.testing.assert_close(
        weights.load_encoder(tmp_path / "long")(ids).hidden, expected, rtol=0, atol=1e-5
    )


def test_an_empty_folder_is_an_error_for_the_user(tmp_path: Path) -> None:
    assert issubclass(weights.WeightsError, ValueError)
    with pytest.raises(weights.WeightsError, match="one file of weights"):
        weights.load_encoder(tmp_path)
