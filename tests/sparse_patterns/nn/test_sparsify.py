"""Torch's own modules with a pattern, against the same modules with an equal `attn_mask`."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparse_patterns as sp
from tests.sparse_patterns.nn.torch_modules import (
    BY_LAYER,
    HEADS,
    LAYERS,
    LENGTH,
    PATTERN,
    WIDTH,
    attention,
    close,
    embeddings,
    encoder,
    hidden,
    padding,
)

pytestmark = pytest.mark.usefixtures("float64_in_one_thread")


@pytest.mark.parametrize("mode", ["eval", "train", "no grad"])
@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"batch_first": False}])
def test_an_encoder_has_a_pattern_by_layer(options: dict[str, Any], mode: str) -> None:
    """Also without gradients, where torch's layers use the weights and call no attention."""
    dense = encoder(**options).train(mode == "train")
    x, padded = embeddings(), padding()
    padded[1] = False
    given = x if options.get("batch_first", True) else x.transpose(0, 1)
    wanted = given
    for layer, block in enumerate(copy.deepcopy(dense).train().layers):
        mask = hidden(BY_LAYER, layer, layers=LAYERS)
        wanted = block(wanted, src_mask=mask, src_key_padding_mask=padded)
    sparse = sp.sparsify(dense, BY_LAYER)
    assert sparse is dense
    with torch.set_grad_enabled(mode != "no grad"):
        got = sparse(given, src_key_padding_mask=padded)
        whole = sparse(given)
    if not options.get("batch_first", True):
        got, wanted = got.transpose(0, 1), wanted.transpose(0, 1)
    close(got[~padded], wanted[~padded])
    assert not torch.allclose(whole, given)


@pytest.mark.parametrize("float_mask", [True, False])
def test_causal_masks_are_honoured(float_mask: bool) -> None:
    dense, x = attention(), embeddings()
    later = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    wanted = dense(x, x, x, attn_mask=hidden(PATTERN & sp.Causal()))[0]
    sparse = sp.sparsify(dense, PATTERN)
    mask = torch.where(later, -torch.inf, 0.0) if float_mask else later
    for given in ({"attn_mask": mask}, {"is_causal": True}):
        close(sparse(x, x, x, need_weights=False, **given)[0], wanted)
    both = {"attn_mask": mask.expand(2 * HEADS, -1, -1), "is_causal": True}
    close(sparse(x, x, x, need_weights=False, **both)[0], wanted)
    nothing = torch.zeros_like(mask)
    close(
        sparse(x, x, x, need_weights=False, attn_mask=nothing)[0],
        sparse(x, x, x, need_weights=False)[0],
    )


def test_a_causal_encoder() -> None:
    dense, x = encoder(), embeddings()
    wanted = x
    for block in copy.deepcopy(dense).layers:
        wanted = block(wanted, src_mask=hidden(PATTERN & sp.Causal()))
    mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
    sp.sparsify(dense, PATTERN)
    close(dense(x, mask=mask), wanted)
    close(dense(x, mask=mask, is_causal=True), wanted)


def test_a_decoder_keeps_its_attention_to_the_encoder() -> None:
    layer = nn.TransformerDecoderLayer(WIDTH, HEADS, 20, dropout=0.0, batch_first=True)
    dense, x, memory = nn.TransformerDecoder(layer, 2), embeddings(), torch.randn(2, 6, WIDTH)
    wanted = x
    for number, block in enumerate(copy.deepcopy(dense).layers):
        pattern = sp.Window(sp.linear(1, 4), 0)
        mask = hidden(pattern, number, layers=2)
        wanted = block(wanted, memory, tgt_mask=mask)
    close(sp.sparsify(dense, sp.Window(sp.linear(1, 4), 0))(x, memory), wanted)
    assert type(dense.layers[0].multihead_attn) is nn.MultiheadAttention


class Tower(nn.Module):
    """A user's module: one attention used twice, called by keywords, weights ignored."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.ModuleDict({"first": attention(), "second": attention()})
        self.again = self.mix["first"]

    def forward(self, x: Tensor) -> Tensor:
        for block in (self.mix["first"], self.mix["second"], self.again):
            x = x + block(query=x, key=x, value=x, need_weights=False)[0]
        return x


def test_parameters_and_their_names_stay() -> None:
    tower = Tower()
    before, state = dict(tower.named_parameters()), copy.deepcopy(tower.state_dict())
    optimizer = torch.optim.SGD(tower.parameters(), 0.1)
    sp.sparsify(tower, PATTERN)
    assert tower.again is tower.mix["first"]
    assert {name: id(p) for name, p in tower.named_parameters()} == {
        name: id(p) for name, p in before.items()
    }
    assert list(tower.state_dict()) == list(state)
    tower.load_state_dict(state)
    x = embeddings()
    first = tower(x)
    first.square().sum().backward()
    optimizer.step()
    assert not torch.equal(tower(x), first)
    close(copy.deepcopy(tower)(x), tower(x))


def test_calling_it_again_changes_the_pattern() -> None:
    dense, x = attention(), embeddings()
    wanted = dense(x, x, x, attn_mask=hidden(sp.Window(1, 1)))[0]
    sparse = sp.sparsify(sp.sparsify(dense, PATTERN), sp.Window(1, 1))
    close(sparse(x, x, x, need_weights=False)[0], wanted)


def test_dropout_is_for_training() -> None:
    sparse, x = sp.sparsify(attention(dropout=1.0), PATTERN), embeddings()
    assert sparse.training
    dropped = sparse(x, x, x, need_weights=False)[0]
    close(dropped, sparse.out_proj.bias.expand_as(dropped))
    assert not torch.equal(sparse.eval()(x, x, x, need_weights=False)[0], dropped)
    assert not sp.sparsify(attention(dropout=0.5).eval(), PATTERN).training


def test_weights_are_refused_or_none() -> None:
    x, wanted = embeddings(), attention()
    sparse = sp.sparsify(wanted, PATTERN)
    with pytest.raises(ValueError, match=r"need_weights=True, but.*ignore_need_weights=True"):
        sparse(x, x, x)
    out, weights = sp.sparsify(sparse, PATTERN, ignore_need_weights=True)(x, x, x)
    assert weights is None
    close(out, sparse(x, x, x, need_weights=False)[0])


def test_names_and_configs_are_patterns() -> None:
    x, dense = embeddings(), attention()
    sparse = [sp.sparsify(dense, p) for p in ("mistral", sp.to_config(sp.get("mistral")))]
    outs = [module(x, x, x, need_weights=False)[0] for module in sparse]
    close(outs[0], outs[1])


class Own(nn.MultiheadAttention):
    """A class of its own."""


def hooked(made: nn.Module) -> nn.Module:
    made.register_forward_hook(lambda *_: None)
    return made


HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "forward": lambda made: made.register_forward_hook(lambda *_: None),
    "forward pre": lambda made: made.register_forward_pre_hook(lambda *_: None),
    "backward": lambda made: made.register_full_backward_hook(lambda *_: None),
    "backward pre": lambda made: made.register_full_backward_pre_hook(lambda *_: None),
    "state dict": lambda made: made._register_state_dict_hook(lambda *_: None),
    "state dict pre": lambda made: made.register_state_dict_pre_hook(lambda *_: None),
    "load state dict pre": lambda made: made.register_load_state_dict_pre_hook(lambda *_: None),
    "load state dict post": lambda made: made.register_load_state_dict_post_hook(lambda *_: None),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_are_not_lost(kind: str) -> None:
    """A module with hooks is refused; without them again it is replaced."""
    made = attention()
    handle = HOOKS[kind](made)
    with pytest.raises(ValueError, match=f"there are {kind} hooks, which would be lost"):
        sp.sparsify(made, "full")
    handle.remove()
    sp.sparsify(made, "full")


REFUSED: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "nothing to replace": (lambda: nn.Linear(2, 2), "full", "Linear holds no nn.Multi"),
    "added keys": (lambda: attention(add_bias_kv=True), "full", "module: add_bias_kv"),
    "a zero key": (lambda: attention(add_zero_attn=True), "full", "add_zero_attn"),
    "other sizes": (lambda: attention(kdim=8), "full", "kdim=8 and vdim=24"),
    "a class of its own": (lambda: Own(WIDTH, HEADS), "full", "but a Own"),
    "hooks": (lambda: hooked(attention()), "full", "hooks, which would be lost"),
    "hooks once more": (
        lambda: hooked(sp.sparsify(attention(), "full")),
        "full",
        "hooks, which would be lost",
    ),
    "tensors of the batch": (attention, "longformer", r"BatchGlobal\(\).*Global\(tokens\)"),
    "heads": (
        lambda: nn.Sequential(attention()),
        sp.PerHead(sp.Full(), sp.Causal(), sp.Full()),
        "0: PerHead has 3",
    ),
    "layers": (encoder, sp.PerLayer(sp.Full(), sp.Causal()), "PerLayer has 2 patterns"),
    "unknown names": (attention, "mistrall", "mistral"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_have_a_pattern_is_refused_with_the_reason(case: str) -> None:
    make, pattern, why = REFUSED[case]
    module = make()
    before = list(module.modules())
    with pytest.raises(ValueError, match=why):
        sp.sparsify(module, pattern)
    assert list(module.modules()) == before
    with pytest.raises(TypeError, match=r"must be an nn\.Module, got str"):
        sp.sparsify("encoder", pattern)


def test_calls_that_cannot_be_served_are_refused_with_the_reason() -> None:
    sparse, x = sp.sparsify(attention(), PATTERN), embeddings().detach()
    near = hidden(sp.Window(2, 2))
    cases: list[tuple[str, Callable[[], Any]]] = [
        ("another sequence", lambda: sparse(x, x.clone(), x, need_weights=False)),
        ("another sequence", lambda: sparse(x, x, x[:, :9], need_weights=False)),
        ("as part of the pattern", lambda: call(attn_mask=near)),
        ("is_causal=True says", lambda: call(attn_mask=near & False, is_causal=True)),
        ("attn_mask must be bool", lambda: call(attn_mask=torch.rand(LENGTH, LENGTH))),
        ("attn_mask must have shape", lambda: call(attn_mask=near[:, :5])),
        (r"key_padding_mask must have shape \(2, 15\)", lambda: call(key_padding_mask=near[0])),
        ("key_padding_mask must be bool", lambda: call(key_padding_mask=torch.ones(2, LENGTH))),
        ("query must have shape", lambda: sparse(x[..., 1:], x, x, need_weights=False)),
    ]

    def call(**options: Any) -> Any:
        return sparse(x, x, x, need_weights=False, **options)

    for why, wrong in cases:
        with pytest.raises(ValueError, match=why):
            wrong()
