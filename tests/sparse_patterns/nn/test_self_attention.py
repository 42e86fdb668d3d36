"""`SparseSelfAttention` against its own projections and the oracle's mask."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import sparse_patterns as sp

GLOBALS = sp.Window(3, 3) | sp.BatchGlobal()
CAUSAL = sp.Window.before(5) | sp.Global((0,), rows=False)


def make(pattern: sp.Pattern = GLOBALS, **options: object) -> sp.SparseSelfAttention:
    torch.manual_seed(0)
    options = {"dtype": torch.float64, **options}
    return sp.SparseSelfAttention(32, 4, pattern, **options)


def embeddings(length: int = 20, batch: int = 2) -> Tensor:
    return torch.randn(batch, length, 32, dtype=torch.float64)


def global_marks(length: int = 20) -> Tensor:
    """Two global tokens in the first example, none in the second."""
    marks = torch.zeros(2, length, dtype=torch.bool)
    marks[0, [0, 11]] = True
    return marks


def split(x: Tensor, projection: nn.Linear, heads: int) -> Tensor:
    """Each key/value head as often as its query heads ask for it."""
    parts = projection(x).reshape(*x.shape[:2], heads, -1).transpose(1, 2)
    return parts.repeat_interleave(4 // heads, 1)


def expected(module: sp.SparseSelfAttention, x: Tensor, **masks: Tensor) -> Tensor:
    where = {"layer": module.layer, "layers": module.layers}
    mask = sp.dense_mask(module.pattern, x.shape[1], heads=4, **where, **masks)
    heads = module.kv_heads
    k, v = split(x, module.key, heads), split(x, module.value, heads)
    scores = split(x, module.query, 4) @ k.transpose(2, 3) / 8**0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    out = weights.masked_fill(~mask.any(-1, keepdim=True), 0) @ v
    return module.output(out.transpose(1, 2).reshape(x.shape))


def close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kv_heads", [None, 1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_projections_around_the_pattern(kv_heads: int | None, bias: bool) -> None:
    module = make(kv_heads=kv_heads, bias=bias)
    x, marks = embeddings(), global_marks()
    close(module(x, global_mask=marks), expected(module, x, global_mask=marks))
    assert (module.query.bias is not None) == bias
    assert module.key.weight.shape == (8 * (kv_heads or 4), 32)


def test_every_mask_reaches_the_attention() -> None:
    module = make(GLOBALS & sp.SameDocument())
    x, marks = embeddings(), global_marks()
    ids = (torch.arange(20) // 7).expand(2, 20)
    real = torch.arange(20).expand(2, 20) < torch.tensor([[20], [13]])
    masks = {"key_mask": real, "global_mask": marks, "segment_ids": ids}
    out = module(x, **masks)
    close(out, expected(module, x, **masks))
    close(out[1, 13:], module.output.bias.expand(7, 32))


def test_the_layer_chooses_the_pattern() -> None:
    pattern = sp.PerLayer(sp.Window(1, 1), sp.Full())
    x = embeddings()
    for layer in range(2):
        module = make(pattern, layer=layer, layers=2)
        close(module(x), expected(module, x))


def test_no_tokens() -> None:
    assert make()(embeddings(0)).shape == (2, 0, 32)


def test_global_projections_start_as_independent_copies() -> None:
    module = make(global_projections=True)
    x, marks = embeddings(), global_marks()
    close(module(x, global_mask=marks), expected(module, x, global_mask=marks))
    storages = {p.untyped_storage().data_ptr() for p in module.parameters()}
    assert len(storages) == len(list(module.parameters())) == 14
    with torch.no_grad():
        module.query.weight.zero_()
    assert module.query_global.weight.any()
    module.copy_to_global_projections()
    assert not module.query_global.weight.any()


def test_global_projections_serve_the_rows_of_global_tokens_alone() -> None:
    module = make(global_projections=True)
    x, marks = embeddings(), global_marks()
    before = module(x, global_mask=marks)
    with torch.no_grad():
        module.value_global.weight.neg_()
        module.query_global.weight.mul_(3)
    after = module(x, global_mask=marks)
    changed = (before - after).abs().amax(-1) > 1e-6
    assert torch.equal(changed, marks)


@pytest.mark.parametrize("with_globals", [True, False])
def test_no_parameter_is_unused(with_globals: bool) -> None:
    module = make(global_projections=True)
    marks = global_marks() & with_globals
    module(embeddings(), global_mask=marks).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        if name.startswith("key") and name.endswith("bias"):
            continue  # a constant added to all scores of a row changes nothing
        assert parameter.grad.any() == (with_globals or "global" not in name), name


def test_no_mask_leaves_no_parameter_unused_either() -> None:
    module = make(global_projections=True)
    module(embeddings()).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_reset_parameters_draws_anew_and_copies_again() -> None:
    module = make(global_projections=True)
    old = module.query.weight.clone()
    module.reset_parameters()
    assert not torch.equal(module.query.weight, old)
    assert torch.equal(module.query.weight, module.query_global.weight)


@pytest.mark.parametrize("global_projections", [False, True])
def test_without_the_output_projection_the_joined_heads_are_returned(
    global_projections: bool,
) -> None:
    with_output = make(global_projections=global_projections)
    module = make(global_projections=global_projections, output_projection=False)
    names = [name for name in with_output.state_dict() if not name.startswith("output.")]
    assert list(module.state_dict()) == names
    module.load_state_dict({name: with_output.state_dict()[name] for name in names})
    x, marks = embeddings(), global_marks()
    close(with_output.output(module(x, global_mask=marks)), with_output(x, global_mask=marks))
    before = module.query.weight.clone()
    module.reset_parameters()
    assert not torch.equal(module.query.weight, before)


def test_dropout_in_training_only() -> None:
    module = make(dropout=0.5)
    x = embeddings()
    assert not torch.equal(module(x), module(x))
    module.eval()
    close(module(x), expected(module, x))


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_a_cache_gives_the_numbers_of_one_pass(kv_heads: int) -> None:
    module = make(CAUSAL, kv_heads=kv_heads).eval()
    x = embeddings(40)
    cache = module.make_cache()
    with torch.no_grad():
        parts = [module(x[:, :17], cache=cache)]
        parts += [module(x[:, i : i + 1], cache=cache) for i in range(17, 40)]
        close(torch.cat(parts, 1), module(x))
    assert cache.position == 40


def test_a_cache_that_cannot_hold_what_is_asked_is_refused() -> None:
    x = embeddings(4)
    module = make(CAUSAL)
    cache = module.make_cache()
    with pytest.raises(ValueError, match="a cache takes no key_mask"):
        module(x, key_mask=torch.ones(2, 4, dtype=torch.bool), cache=cache)
    with pytest.raises(ValueError, match=r"of another layer: .* 4 heads, layer 0 of 1"):
        make(CAUSAL, layer=1, layers=2)(x, cache=cache)
    with pytest.raises(ValueError, match=r"no dropout \(0\.1\); call module\.eval\(\)"):
        make(CAUSAL, dropout=0.1)(x, cache=cache)
    causal_globals = sp.Causal() & (sp.Window(2, 2) | sp.Global((0,)))
    with pytest.raises(ValueError, match="does not serve a module with global_projections"):
        make(causal_globals, global_projections=True)(x, cache=cache)
    with pytest.raises(ValueError, match="needs a causal pattern"):
        make(sp.Window(2, 2)).make_cache()


def test_a_pattern_by_name_or_config() -> None:
    assert make("mistral").pattern == sp.get("mistral")
    assert make(sp.to_config(GLOBALS)).pattern == GLOBALS
    with pytest.raises(ValueError, match="Did you mean 'mistral'"):
        make("mistrol")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((32, 5, GLOBALS), "positive multiple of num_heads, got embed_dim=32 and num_heads=5"),
        ((32, 0, GLOBALS), "got embed_dim=32 and num_heads=0"),
        ((32, 4, sp.PerHead(GLOBALS, CAUSAL, GLOBALS)), "PerHead has 3 patterns"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sp.SparseSelfAttention(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_heads": 3}, r"kv_heads must divide num_heads \(4\), got 3"),
        ({"kv_heads": 0}, r"kv_heads must divide num_heads \(4\), got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1\.0"),
        ({"layer": 3, "layers": 2}, r"layer must be in 0\.\.1"),
        ({"pattern": CAUSAL, "global_projections": True}, "need a pattern with global rows"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(TypeError, match="pattern must be a Pattern, got 7"):
        make(7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"x must have shape \(batch, length, 32\), got \(2, 32\)"):
        make()(embeddings()[:, 0])
    with pytest.raises(ValueError, match="no global projections"):
        make().copy_to_global_projections()


def test_the_repr_shows_the_pattern() -> None:
    module = make(CAUSAL, kv_heads=2, layer=1, layers=3, dropout=0.1)
    assert module.extra_repr() == (
        "Window(5, 0) | Global((0,), rows=False), num_heads=4, kv_heads=2, layer=1, layers=3, "
        "dropout=0.1"
    )
    assert repr(make()).splitlines()[1].strip() == "Window(3, 3) | BatchGlobal(), num_heads=4"


def test_copies_and_state_dicts_give_the_same_module() -> None:
    module = make(global_projections=True)
    x, marks = embeddings(), global_marks()
    other = make(global_projections=True)
    other.reset_parameters()
    other.load_state_dict(module.state_dict())
    for same in (copy.deepcopy(module), other):
        assert torch.equal(same(x, global_mask=marks), module(x, global_mask=marks))


def gradients(module: nn.Module, out: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(out.square().sum(), list(module.parameters())))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_activation_checkpointing(dropout: float) -> None:
    module = make(global_projections=True, dropout=dropout)
    x, marks = embeddings(), global_marks()
    torch.manual_seed(1)
    plain = module(x, None, marks)
    torch.manual_seed(1)
    saved = checkpoint(module, x, None, marks, use_reentrant=False)
    close(saved, plain)
    for got, wanted in zip(gradients(module, saved), gradients(module, plain), strict=True):
        close(got, wanted)


def test_compiles_without_a_graph_break() -> None:
    module = make(global_projections=True)
    x, marks = embeddings(), global_marks()
    # Traces forward and backward as the default backend does, but makes no C++ of them.
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    out = compiled(x, global_mask=marks)
    close(out, module(x, global_mask=marks))
    wanted = gradients(module, module(x, global_mask=marks))
    for got, want in zip(gradients(module, out), wanted, strict=True):
        close(got, want)
