"""A model keeps its pattern: in its folder, in a file of the whole model, in copies."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import sparse_patterns as sp
from sparse_patterns.huggingface import register, set_pattern
from tests.children import run_program
from tests.sparse_patterns.huggingface.models import (
    HEADS,
    LAYERS,
    NEAR,
    SMALL,
    bert,
    close,
    finish,
    llama,
    modernbert,
    some_ids,
)

pytestmark = pytest.mark.usefixtures("one_thread")

BY_LAYER = sp.PerLayer(sp.Window(1, 1), NEAR, sp.LocalBlock(4))
MODELS = {"llama": llama, "bert": bert, "modernbert": modernbert}


def multiple_of_three(q: Tensor, k: Tensor, head: int) -> Tensor:
    return (q + k) % 3 == 0


def load(folder: Path, kind: Any, **options: Any) -> nn.Module:
    register()
    options = {"attn_implementation": "sparse_patterns", "dtype": torch.float64, **options}
    return kind.from_pretrained(folder, **options).eval()


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_keeps_the_pattern(name: str, tmp_path: Path) -> None:
    model, ids = set_pattern(MODELS[name](), BY_LAYER), some_ids()
    model.save_pretrained(tmp_path)
    plain = json.loads((tmp_path / "config.json").read_text())["sparse_pattern"]
    assert sp.from_config(plain) == BY_LAYER
    other = load(tmp_path, type(model))
    assert torch.equal(other(ids).logits, model(ids).logits)
    # Without the name it is a model with its own attention, until it is told to take the pattern.
    plain_model = load(tmp_path, type(model), attn_implementation="sdpa")
    assert (plain_model(ids).logits - model(ids).logits).abs().max() > 1e-3
    assert torch.equal(set_pattern(plain_model)(ids).logits, model(ids).logits)
    # Another pattern takes its place.
    set_pattern(other, NEAR).save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path, type(model))(ids).logits, other(ids).logits)


def test_a_pipeline_of_a_folder_has_the_pattern(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    register()
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2, **{f"w{n}": n for n in range(3, 60)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")
    model = set_pattern(llama(), sp.Window(1, 0)).float()
    model.save_pretrained(tmp_path)
    fast.save_pretrained(tmp_path)
    options = {"attn_implementation": "sparse_patterns", "dtype": torch.float32}
    pipe = transformers.pipeline(
        "text-generation", str(tmp_path), model_kwargs=options, device="cpu"
    )
    ids = torch.arange(3, 15)[None]
    assert torch.equal(pipe.model(ids).logits, model(ids).logits)


def test_the_part_of_a_composite_model_keeps_its_pattern(tmp_path: Path) -> None:
    config = transformers.LlavaConfig(
        text_config={"model_type": "llama", **SMALL, "num_key_value_heads": 2},
        vision_config={
            "model_type": "clip_vision_model",
            **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1},
            **{"num_attention_heads": 2, "image_size": 8, "patch_size": 4, "projection_dim": 8},
        },
        image_token_id=59,
    )
    model = finish(transformers.LlavaForConditionalGeneration(config))
    set_pattern(model.model.language_model, NEAR)
    model.save_pretrained(tmp_path)
    kind, ids = transformers.LlavaForConditionalGeneration, some_ids() % 58
    wanted = model(ids).logits
    other = kind.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert (other(ids).logits - wanted).abs().max() > 1e-3
    close(set_pattern(other)(ids).logits, wanted)
    register()
    named = {"text_config": "sparse_patterns", "vision_config": "sdpa", "": "sdpa"}
    other = kind.from_pretrained(tmp_path, dtype=torch.float64, attn_implementation=named).eval()
    close(other(ids).logits, wanted)


def test_a_rule_that_can_be_imported_is_kept_and_imported_when_asked(tmp_path: Path) -> None:
    rule = sp.Window(1, 1) | sp.Rule(multiple_of_three)
    model, ids = set_pattern(llama(), rule), some_ids()
    model.save_pretrained(tmp_path)
    other = load(tmp_path, type(model))
    with pytest.raises(ValueError, match=r"(?s)sparse_pattern of its config.*set_pattern\(mod"):
        other(ids)
    assert torch.equal(set_pattern(other)(ids).logits, model(ids).logits)


def test_a_pattern_without_a_plain_form_is_refused_while_saving(tmp_path: Path) -> None:
    local = sp.Rule(lambda q, k, head: q >= k, name="earlier")
    model, ids = set_pattern(llama(), local), some_ids()
    model(ids)
    for one in (model, copy.deepcopy(model)):
        with pytest.raises(
            ValueError, match=r"LlamaForCausalLM cannot be saved with its pat.*rule"
        ):
            one.save_pretrained(tmp_path)
    set_pattern(model, NEAR).save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path, type(model))(ids).logits, model(ids).logits)


def test_a_pattern_of_a_part_without_a_plain_form_is_refused_with_the_whole(
    tmp_path: Path,
) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**SMALL, "num_hidden_layers": 1},
        vision_config={**sizes, "intermediate_size": 8, "image_size": 16, "patch_size": 4},
    )
    whole: Any = transformers.CLIPModel(config)
    set_pattern(whole.text_model, sp.Rule(lambda q, k, head: q >= k, name="earlier"))
    for one in (whole, copy.deepcopy(whole)):
        with pytest.raises(ValueError, match=r"cannot be saved with its pattern.*rule"):
            one.save_pretrained(tmp_path)
    assert whole.state_dict()
    set_pattern(whole.text_model, NEAR)
    whole.save_pretrained(tmp_path)


def test_without_a_pattern_anywhere_it_is_asked_for() -> None:
    with pytest.raises(ValueError, match="LlamaForCausalLM has no sparse_pattern"):
        set_pattern(llama())


def test_a_whole_model_runs_in_a_new_process(tmp_path: Path) -> None:
    model, ids = set_pattern(llama(), BY_LAYER), some_ids()
    torch.save(model, tmp_path / "model.pt")
    torch.save((ids, model(ids).logits), tmp_path / "wanted.pt")
    program = tmp_path / "load.py"
    program.write_text(
        "import torch\n"
        "model = torch.load('model.pt', weights_only=False)\n"
        "ids, wanted = torch.load('wanted.pt')\n"
        "assert torch.equal(model(ids).logits, wanted)\n"
    )
    run_program(program, folder=tmp_path)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_on_the_meta_device_gives_the_shape(name: str, padded: bool) -> None:
    model = set_pattern(MODELS[name]().to("meta"), BY_LAYER)
    ids = torch.zeros(2, 9, dtype=torch.long, device="meta")
    given = {"attention_mask": torch.ones_like(ids)} if padded else {}
    out = model(ids, **given).logits
    assert out.shape == (2, 9, 60)
    assert out.is_meta
    assert (HEADS, LAYERS) == (4, 3)
