"""Models of `transformers` with a pattern, against the same models with an equal dense mask.

The dense masks are handed to each attention module by a hook, layer by layer, and go through the
model's own attention; each is the oracle's mask of the unpadded text, at the place of that text.
"""

import copy
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

import sparse_patterns as sp
from sparse_patterns.huggingface.attach import NAME, register, set_pattern
from tests.sparse_patterns.huggingface.models import (
    CAUSAL_MODELS,
    LENGTH,
    MODELS,
    NEAR,
    PATTERNS,
    SMALL,
    TOLERANCE,
    attentions,
    bert,
    close,
    dense,
    llama,
    masks,
    padding,
    roberta,
    some_ids,
    texts,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        pytest.param(
            name,
            pattern,
            marks=()
            if name in ("llama", "bert") or pattern in ("per layer", "random")
            else pytest.mark.long,
        )
        for name in MODELS
        for pattern in PATTERNS
    ],
)
def test_numbers_and_gradients_are_those_of_the_dense_mask(name: str, pattern: str) -> None:
    model, spec, real, ids = MODELS[name](), PATTERNS[pattern], padding(), some_ids(batch=3)
    loss_weights = torch.randn(3, LENGTH, 60, dtype=torch.float64) * real[..., None]

    def run() -> tuple[Tensor, list[Tensor]]:
        logits = model(ids, attention_mask=real).logits
        used = [p for p in model.parameters() if p.requires_grad]
        grads = torch.autograd.grad((logits * loss_weights).sum(), used, allow_unused=True)
        return logits, [g for g in grads if g is not None]

    with dense(model, masks(model, spec, real.bool())):
        wanted, wanted_grads = run()
    set_pattern(model, spec)
    got, grads = run()
    tolerance = TOLERANCE.get(name, 1e-11)
    close(got[real.bool()], wanted[real.bool()], tolerance)
    scale = max(float(g.abs().max()) for g in wanted_grads)
    for grad, wanted_grad in zip(grads, wanted_grads, strict=True):
        close(grad / scale, wanted_grad / scale, tolerance)


def test_a_pattern_changes_what_a_model_says() -> None:
    """The other tests would pass on models that do not attend."""
    for make in MODELS.values():
        model, ids = make(), some_ids()
        full = model(ids).logits
        sparse = set_pattern(model, sp.Window(1, 1))(ids).logits
        assert (full - sparse).abs().max() > 1e-3
        model.set_attn_implementation("sdpa")
        close(model(ids).logits, full)
        # A full pattern takes nothing away.
        close(
            set_pattern(model, sp.Full())(ids).logits,
            full,
            TOLERANCE.get(model.config.model_type, 1e-11),
        )


def test_eager_attention_agrees_too() -> None:
    model, ids = bert(), some_ids()
    (mask, *_) = masks(model, NEAR, torch.ones(2, LENGTH, dtype=torch.bool))
    model.set_attn_implementation("eager")
    wanted = model(ids, attention_mask=torch.where(mask, 0.0, -torch.inf).double()).logits
    close(set_pattern(model, NEAR)(ids).logits, wanted)


@pytest.mark.parametrize("name", ["llama", "roberta", "modernbert"])
def test_padding_changes_no_example(name: str) -> None:
    """Also where globals are counted from the end and blocks are drawn among all."""
    model, real, ids = MODELS[name](), padding(), some_ids(batch=3)
    ids = ids * real
    set_pattern(model, PATTERNS["random"] | sp.LocalBlock(5) | sp.Global((0, 3)))
    together = model(ids, attention_mask=real, **places(name, real)).logits
    for example, text in enumerate(texts(real.bool())):
        alone = model(ids[example : example + 1, text]).logits
        close(together[example, text], alone[0], TOLERANCE.get(name, 1e-11))


def places(name: str, real: Tensor) -> dict[str, Tensor]:
    """The positions that generation gives to texts with padding; BERT counts by itself."""
    return {} if "bert" in name else {"position_ids": (real.cumsum(1) - 1).clamp(min=0)}


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        pytest.param(
            name,
            pattern,
            marks=() if name == "llama" or pattern == "per layer" else pytest.mark.long,
        )
        for name in [*CAUSAL_MODELS, "bert-decoder"]
        for pattern in ("window and global", "per head", "per layer")
    ],
)
def test_a_cache_changes_no_number(name: str, pattern: str) -> None:
    """The prompt in two pieces, then one token at a time, against one pass with the dense mask."""
    model, spec, ids = MODELS[name](), PATTERNS[pattern], some_ids()
    real = torch.ones(2, LENGTH, dtype=torch.long)
    real[0, :4] = 0
    where = places(name, real)
    with dense(model, masks(model, spec, real.bool())):
        wanted = model(ids, attention_mask=real, use_cache=False, **where).logits
    set_pattern(model, spec)
    cache, found, seen = transformers.DynamicCache(config=model.config), [], 0
    for piece in ids.split([7, 3, *[1] * 10, 2], 1):
        now = slice(seen, seen + piece.shape[1])
        seen = now.stop
        given = {key: value[:, now] for key, value in where.items()}
        out = model(piece, attention_mask=real[:, :seen], cache=cache, use_cache=True, **given)
        found.append(out.logits)
    close(torch.cat(found, 1)[real.bool()], wanted[real.bool()])


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_generation_with_a_cache_is_generation_without(name: str) -> None:
    model, ids, real = (
        set_pattern(MODELS[name](), NEAR),
        some_ids(length=9),
        torch.ones(2, 9).long(),
    )
    real[0, :4] = 0
    options = {"attention_mask": real, "do_sample": False, "max_new_tokens": 6}
    options |= {"min_new_tokens": 6, "return_dict_in_generate": True, "output_logits": True}
    made, wanted = model.generate(ids, **options), model.generate(ids, use_cache=False, **options)
    assert torch.equal(made.sequences, wanted.sequences)
    # `generate` returns them in float32.
    close(torch.stack(made.logits), torch.stack(wanted.logits), 1e-5)


def test_beams_generate_what_they_do_without_a_cache() -> None:
    model, ids = set_pattern(llama(), NEAR), some_ids(length=8)
    options = {"num_beams": 3, "max_new_tokens": 5, "do_sample": False}
    wanted = model.generate(ids, use_cache=False, **options)
    assert torch.equal(model.generate(ids, **options), wanted)


def test_what_depends_on_the_final_length_is_refused_with_a_cache() -> None:
    model, ids = set_pattern(llama(), PATTERNS["random"]), some_ids(length=8)
    with pytest.raises(ValueError, match=r"final length.*use_cache=False"):
        model.generate(ids, max_new_tokens=2)
    assert model.generate(ids, max_new_tokens=2, use_cache=False).shape == (2, 10)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_packed_documents_do_not_see_each_other(name: str) -> None:
    model, ids = set_pattern(MODELS[name](), sp.Window(5, 5)), some_ids(batch=1)
    places = torch.cat([torch.arange(9), torch.arange(LENGTH - 9)])[None]
    packed = model(ids, position_ids=places, use_cache=False).logits
    apart = [model(part).logits for part in ids.split([9, LENGTH - 9], 1)]
    close(packed, torch.cat(apart, 1), 1e-9)


@pytest.mark.parametrize("make", [llama, roberta, bert])
def test_global_tokens_and_documents_by_example(make: Callable[[], nn.Module]) -> None:
    model, ids, real = make(), some_ids(), torch.ones(2, LENGTH, dtype=torch.bool)
    marks = torch.zeros(2, LENGTH, dtype=torch.bool)
    marks[0, [0, 6]] = True
    documents = (torch.arange(LENGTH) // 10).expand(2, LENGTH)
    pattern = (sp.Window(2, 2) | sp.BatchGlobal()) & sp.SameDocument()
    given = {"global_mask": marks, "segment_ids": documents}
    got = set_pattern(model, pattern)(ids, **given).logits
    with dense(model, masks(model, pattern, real, **given)):
        close(got, model(ids).logits)
    given["global_mask"] = torch.zeros_like(marks)
    assert not torch.equal(got, set_pattern(model, pattern)(ids, **given).logits)


def test_the_scale_is_the_models() -> None:
    model, ids = llama(), some_ids()
    for module in attentions(model):
        module.scaling = 0.05
    got = set_pattern(model, NEAR)(ids).logits
    with dense(model, masks(model, NEAR, torch.ones(2, LENGTH, dtype=torch.bool))):
        close(got, model(ids).logits)


def test_dropout_is_for_training() -> None:
    model, ids = set_pattern(llama(attention_dropout=1.0), NEAR), some_ids()
    kept = model(ids).logits
    dropped = model.train()(ids).logits
    for module in attentions(model):
        nn.init.zeros_(module.o_proj.weight)
    close(dropped, model.eval()(ids).logits)
    assert (dropped - kept).abs().max() > 1e-3
    model = set_pattern(llama(attention_dropout=0.3), NEAR).train()
    torch.manual_seed(5)
    first, other = model(ids).logits, model(ids).logits
    torch.manual_seed(5)
    assert torch.equal(first, model(ids).logits)
    assert not torch.equal(first, other)


def test_checkpointing_gives_the_same_gradients() -> None:
    model, ids = set_pattern(roberta(), NEAR).train(), some_ids()
    found = []
    for _ in range(2):
        model.zero_grad()
        model(ids).logits.square().sum().backward()
        found.append(model.get_input_embeddings().weight.grad.clone())
        model.activation_checkpointing_enable()
    close(found[0], found[1])


def test_autocast_takes_the_type_that_torch_takes() -> None:
    """Rotary positions leave queries and keys in another type than values."""
    model, ids = llama(), some_ids()
    exact = model(ids).logits
    with torch.autocast("cpu", torch.bfloat16):
        wanted = model.float()(ids).logits
        got = set_pattern(model, "full")(ids).logits
    assert got.dtype == wanted.dtype == torch.bfloat16
    # Each rounds in its own order; over six inputs the ratio was 1.1 to 1.6.
    assert (got - exact).norm() < 2 * (wanted - exact).norm()


def test_names_and_configs_are_patterns() -> None:
    model, ids = roberta(), some_ids()
    wanted = set_pattern(model, sp.get("bigbird", block=4))(ids).logits
    close(set_pattern(model, {"preset": "bigbird", "block": 4})(ids).logits, wanted)
    by_name = set_pattern(model, "bigbird")(ids).logits
    assert (by_name - wanted).abs().max() > 1e-3
    with pytest.raises(ValueError, match="bigbrd"):
        set_pattern(model, "bigbrd")
    with pytest.raises(ValueError, match="PerLayer has 2 patterns"):
        set_pattern(model, sp.PerLayer(sp.Full(), sp.Causal()))
    with pytest.raises(ValueError, match="PerHead has 3 patterns"):
        set_pattern(model, sp.PerHead(sp.Full(), sp.Causal(), sp.Window(1, 1)))


def test_the_name_can_be_given_when_a_model_is_made() -> None:
    register()
    config = transformers.RobertaConfig(**SMALL)
    model = transformers.AutoModelForMaskedLM.from_config(config, attn_implementation=NAME).eval()
    with pytest.raises(ValueError, match=r"RobertaSelfAttention has no pattern.*set_pattern"):
        model(some_ids())
    set_pattern(model, NEAR)(some_ids())


def test_models_of_one_configuration_object_are_told_apart() -> None:
    config = transformers.RobertaConfig(**SMALL)
    first, second = (transformers.RobertaModel(config).eval() for _ in range(2))
    set_pattern(first, NEAR)
    with pytest.raises(ValueError, match=r"RobertaSelfAttention shares its configuration object"):
        second(some_ids())
    with pytest.raises(ValueError, match=r"RobertaModel shares .* another pattern.*deepcopy"):
        set_pattern(second, sp.Full())
    set_pattern(second)
    second.load_state_dict(first.state_dict())
    ids = some_ids()
    close(second(ids)[0], first(ids)[0])
    set_pattern(first, NEAR)
    apart = transformers.RobertaModel(copy.deepcopy(config)).eval()
    set_pattern(apart, sp.Full())(some_ids())


def test_a_model_without_layer_numbers_has_one_pattern_for_all() -> None:
    config = transformers.ViTConfig(
        image_size=16, patch_size=4, hidden_size=32, intermediate_size=40, num_hidden_layers=2
    )
    config.num_attention_heads = 4
    model, images = (
        transformers.ViTModel(config).double().eval(),
        torch.randn(1, 3, 16, 16).double(),
    )
    full = model(images).last_hidden_state
    close(set_pattern(model, sp.Full())(images).last_hidden_state, full)
    assert (set_pattern(model, NEAR)(images).last_hidden_state - full).abs().max() > 1e-6


def test_without_transformers_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ImportError, match=r"need transformers.*pip install 'sparse-patterns\[hf\]'"
    ):
        set_pattern(nn.Linear(2, 2), NEAR)


PAGE = Path(__file__).parents[3] / "docs" / "huggingface.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(2))
def test_the_code_of_the_page_runs(number: int) -> None:
    exec(compile(BLOCKS[number], str(PAGE), "exec"), {})
