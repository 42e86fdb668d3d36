"""The encoder gives the numbers of `transformers`: hidden states, pooled vectors, gradients.

Where Hugging Face itself depends on padding or on the rest of the batch, the cases are left out or
compared in part:

- BERT and RoBERTa compute the rows of padded tokens, from keys that are real; here they see
  nothing. Only rows of real tokens are compared. Longformer gives them nothing either.
- Longformer pads texts to a multiple of its widest window and needs that to be a multiple of every
  other one: windows of 4 and 6 end in an assertion. Windows are drawn as divisors of the widest.
- Longformer without any global token in the batch leaves its global projections out, so that they
  have no gradient (None); here it is zero.
- Longformer pads with `pad_token_id` and BERT numbers positions from the start of the row: a text
  padded on the left is another text for BERT, and the same one for the others. Here, too.
"""

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_modules.nn.encoder.encoder import Encoder, EncoderConfig

transformers = pytest.importorskip("transformers")

HIDDEN, GRADIENT = 2e-5, 1e-4

LONGFORMERS = [
    "LongformerModel",
    "LongformerForMaskedLM",
    "LongformerForSequenceClassification",
    "LongformerForQuestionAnswering",
    "LongformerForMultipleChoice",
    "LongformerForTokenClassification",
]
LAYERS = (2, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 7)))
MARKS = ("none", "first", "several", "per example")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    # Longformer advises on padding and on global tokens.
    transformers.logging.set_verbosity_error()


def redraw(model: nn.Module, scale: float = 0.15) -> None:
    """Weights that matter: Hugging Face's own are so small that any attention averages."""
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, mean=1.0 if "LayerNorm.weight" in name else 0.0, std=scale)


def twin(model: Any) -> Encoder:
    """An encoder with the weights of a backbone."""
    config = EncoderConfig.from_huggingface(model.config.to_dict())
    encoder = Encoder(config.replace(pooler=getattr(model, "pooler", None) is not None))
    encoder.load_state_dict(model.state_dict())
    return encoder.eval()


def padded(rng: random.Random, batch: int, length: int, left: bool = False) -> Tensor:
    """A key mask with some padding in every row but one."""
    key_mask = torch.ones(batch, length, dtype=torch.bool)
    for row in range(1, batch):
        amount = rng.randrange(length)
        if amount:
            key_mask[row, :amount] = False
            key_mask[row] = key_mask[row] if left else key_mask[row].flip(0)
    return key_mask


def marked(rng: random.Random, marks: str, key_mask: Tensor) -> Tensor | None:
    if marks == "none":
        return None
    global_mask = torch.zeros_like(key_mask)
    batch, length = key_mask.shape
    for row in range(batch):
        if marks == "first":
            global_mask[row, 0] = True
        else:
            # Per example another number of them, none in the last; some may fall on padding.
            number = 5 if marks == "several" else 3 * (batch - 1 - row)
            columns = [rng.randrange(length) for _ in range(number)]
            global_mask[row, columns] = True
            if marks == "several":
                global_mask[row] = global_mask[0]
    return global_mask


def ids_for(config: EncoderConfig, key_mask: Tensor) -> Tensor:
    ids = torch.randint(config.pad_id + 1, config.vocabulary_size, key_mask.shape)
    return ids.masked_fill(~key_mask, config.pad_id)


def compare(model: Any, encoder: Encoder, ids: Tensor, given: dict[str, Any]) -> None:
    """Hidden states, pooled vectors and gradients of a loss over all rows that are compared."""
    key_mask, global_mask = given.get("key_mask"), given.get("global_mask")
    theirs = {"token_type_ids": given.get("token_type_ids")}
    if key_mask is not None:
        theirs["attention_mask"] = key_mask.long()
    if global_mask is not None:
        theirs["global_attention_mask"] = global_mask.long()
    rows = torch.ones_like(ids, dtype=torch.bool)
    if key_mask is not None and encoder.config.model_type != "longformer":
        rows = key_mask
    got = encoder(ids, **given)
    wanted = model(ids, **theirs)
    hidden, expected = got.hidden, wanted.last_hidden_state
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(hidden[rows], expected[rows], rtol=0, atol=HIDDEN)
    weights = torch.randn_like(hidden) * rows[..., None] / rows.sum()
    ours, theirs_ = (hidden * weights).sum(), (expected * weights).sum()
    if encoder.pooler is None:
        assert got.pooled is None
    else:
        torch.testing.assert_close(got.pooled, wanted.pooler_output, rtol=0, atol=HIDDEN)
        ours, theirs_ = ours + got.pooled.sum(), theirs_ + wanted.pooler_output.sum()
    ours.backward()
    theirs_.backward()
    named = dict(encoder.named_parameters())
    for name, parameter in model.named_parameters():
        grad = named[name].grad
        assert grad is not None, name
        if parameter.grad is None:
            assert "_global" in name
            assert not grad.any()
        else:
            torch.testing.assert_close(grad, parameter.grad, rtol=0, atol=GRADIENT, msg=name)


def longformer(rng: random.Random, layers: int, class_name: str, length: int) -> Any:
    heads = rng.choice((1, 2, 4))
    widest = rng.choice((8, 12, 32, 48, 240, 1024))
    windows = [
        2 * rng.choice([side for side in range(2, widest // 2 + 1) if (widest // 2) % side == 0])
        for _ in range(layers)
    ]
    windows[rng.randrange(layers)] = widest
    config = transformers.LongformerConfig(
        vocab_size=rng.randrange(20, 60),
        hidden_size=heads * rng.choice((4, 8, 10)),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=rng.randrange(8, 40),
        max_position_embeddings=length + 2 + rng.randrange(3),
        type_vocab_size=rng.choice((1, 2)),
        hidden_act=rng.choice(("gelu", "gelu", "relu", "gelu_new", "silu")),
        layer_norm_eps=rng.choice((1e-5, 1e-12)),
        attention_window=windows,
    )
    model = getattr(transformers, class_name)(config)
    return getattr(model, "longformer", model).eval()


@pytest.mark.parametrize(
    ("class_name", "marks"),
    [
        # The classes share one backbone.
        pytest.param(
            class_name,
            marks,
            marks=() if "LongformerModel" == class_name or i % 4 == j else pytest.mark.long,
        )
        for i, class_name in enumerate(LONGFORMERS)
        for j, marks in enumerate(MARKS)
    ],
)
@pytest.mark.parametrize("layers", LAYERS)
def test_longformer(class_name, layers, marks):
    rng = random.Random(f"{class_name} {layers} {marks}")
    length = rng.choice((1, 2, rng.randrange(3, 40), rng.randrange(40, 700)))
    model = longformer(rng, layers, class_name, length)
    redraw(model)
    encoder = twin(model)
    key_mask = padded(rng, rng.choice((1, 2, 3)), length, left=rng.random() < 0.2)
    given = {"key_mask": key_mask, "global_mask": marked(rng, marks, key_mask)}
    if encoder.config.token_types > 1:
        given["token_type_ids"] = torch.randint(2, key_mask.shape)
    compare(model, encoder, ids_for(encoder.config, key_mask), given)


@pytest.mark.parametrize("length", [1, 2, 3, 13, 64, 65, 257, 511, 700])
def test_longformer_at_any_length(length):
    rng = random.Random(length)
    model = longformer(rng, 2, "LongformerModel", length)
    redraw(model)
    encoder = twin(model)
    key_mask = padded(rng, 2, length)
    given = {"key_mask": key_mask, "global_mask": marked(rng, "per example", key_mask)}
    compare(model, encoder, ids_for(encoder.config, key_mask), given)


def test_longformer_with_all_windows_wider_than_the_text():
    model = longformer(random.Random(3), 2, "LongformerModel", 30)
    model.config.attention_window = [64, 128]
    model = transformers.LongformerModel(model.config).eval()
    redraw(model)
    key_mask = torch.ones(2, 30, dtype=torch.bool)
    encoder = twin(model)
    compare(model, encoder, ids_for(encoder.config, key_mask), {})


def test_longformer_with_every_token_global():
    model = longformer(random.Random(4), 2, "LongformerModel", 50)
    redraw(model)
    encoder = twin(model)
    key_mask = padded(random.Random(4), 3, 50)
    given = {"key_mask": key_mask, "global_mask": torch.ones_like(key_mask)}
    compare(model, encoder, ids_for(encoder.config, key_mask), given)


@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("name", ["Bert", "Roberta", "XLMRoberta", "Camembert"])
def test_bert_and_roberta_with_the_full_pattern(name, layers, padding):
    rng = random.Random(f"{name} {layers} {padding}")
    length = rng.randrange(2, 200)
    config = getattr(transformers, f"{name}Config")(
        vocab_size=40,
        hidden_size=24,
        num_hidden_layers=layers,
        num_attention_heads=3,
        intermediate_size=50,
        max_position_embeddings=length + 2,
        type_vocab_size=2,
        pad_token_id=0 if name == "Bert" else 1,
    )
    model = getattr(transformers, f"{name}Model")(config).eval()
    redraw(model)
    encoder = twin(model)
    key_mask = torch.ones(3, length, dtype=torch.bool)
    if padding != "none":
        key_mask = padded(rng, 3, length, left=padding == "left")
    if padding == "left":
        # The pooler takes the first column, whatever stands there; they differ on padding.
        model.pooler = encoder.pooler = None
    given = {"key_mask": key_mask, "token_type_ids": torch.randint(2, key_mask.shape)}
    compare(model, encoder, ids_for(encoder.config, key_mask), given)


def test_without_a_pooler():
    config = transformers.LongformerConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, attention_window=4
    )
    model = transformers.LongformerModel(config, add_pooling_layer=False).eval()
    redraw(model)
    compare(model, twin(model), torch.randint(2, 30, (2, 17)), {})


def test_all_hidden_states():
    model = longformer(random.Random(1), 7, "LongformerModel", 60)
    redraw(model)
    encoder = twin(model)
    ids = torch.randint(2, 20, (2, 60))
    wanted = model(ids, output_hidden_states=True).hidden_states
    got = encoder(ids, output_hidden_states=True).hidden_states
    assert len(got) == len(wanted) == 8
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=HIDDEN)


def test_attention_maps_of_bert():
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        attn_implementation="eager",
    )
    model = transformers.BertModel(config).eval()
    redraw(model)
    ids = torch.randint(1, 30, (2, 21))
    wanted = model(ids, output_attentions=True).attentions
    got = twin(model).attention_maps(ids, layers=range(1, 3))
    assert list(got) == [1, 2]
    for layer, weights in got.items():
        torch.testing.assert_close(weights, wanted[layer], rtol=0, atol=1e-5)
