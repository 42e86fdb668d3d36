"""LoRA of peft on encoder and decoder, torch.compile of whole modules."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.lit_modules.modules.kinds import SOME, data, flat, inputs, make, trainer

PROJECTIONS = {"language": ["project_in", "project_out"]}
EVERY = ["query", "key", "value", "query_global", "key_global", "value_global"]


def network(model: Any, kind: str) -> Any:
    return model.net if kind == "language" else model.encoder


def trained(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def teach(model: Any, kind: str) -> None:
    model.hparams["decay"], model.hparams["learning_rate"] = "none", 1e-2
    if kind == "masked":
        model.hparams["global_projections"] = "trained"
    trainer(max_epochs=1).fit(model.train(), datamodule=data(kind))


@pytest.mark.parametrize("kind", SOME)
def test_adapters_put_into_the_network_train_and_merge(kind: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = make(kind).eval()
    before = flat(model(inputs(kind)))
    frozen = copy.deepcopy(model.state_dict())
    config = peft.LoraConfig(r=2, target_modules=PROJECTIONS.get(kind, EVERY))
    model.requires_grad_(False)
    peft.inject_adapter_in_model(config, network(model, kind))
    torch.testing.assert_close(flat(model(inputs(kind))), before, rtol=1e-5, atol=1e-6)
    first = trained(model)
    assert first
    assert all("lora" in name for name in first)
    teach(model, kind)
    last = trained(model)
    changed = {name for name, value in first.items() if not torch.equal(value, last[name])}
    # Matrices B start at zero, so that A has no gradient in the first step. Heads on the first
    # token, which is global, read its own projections; words that are masked are not global.
    wanted = {"language": "project", "masked": "query."}.get(kind, "query_global.")
    assert changed >= {name for name in first if wanted in name and "lora_B" in name}
    for name, value in frozen.items():
        now = model.state_dict()
        found = now.get(name, now.get(based(name)))
        assert torch.equal(found, value), name
    after = flat(model.eval()(inputs(kind)))
    assert after.shape != before.shape or not torch.allclose(after, before, atol=1e-6)
    run = trainer()
    run.strategy.connect(model)
    run.save_checkpoint(tmp_path / "a.ckpt")


def based(name: str) -> str:
    head, _, last = name.rpartition(".")
    return f"{head}.base_layer.{last}"


@pytest.mark.parametrize("kind", SOME)
def test_a_network_wrapped_by_peft_takes_its_place(kind: str) -> None:
    peft = pytest.importorskip("peft")
    model = make(kind).eval()
    before = flat(model(inputs(kind)))
    config = peft.LoraConfig(r=2, target_modules=PROJECTIONS.get(kind, ["query", "value"]))
    if kind == "language":
        model.net = peft.get_peft_model(model.net, config)
    elif kind == "masked":
        model.net.encoder = peft.get_peft_model(model.net.encoder, config)
    else:
        model.encoder = peft.get_peft_model(model.encoder, config)
    assert torch.equal(flat(model(inputs(kind))), before)
    teach(model, kind)
    wrapped = model.net.encoder if kind == "masked" else network(model, kind)
    adapted = flat(model.eval()(inputs(kind)))
    merged = wrapped.merge_and_unload()
    if kind == "language":
        model.net = merged
    elif kind == "masked":
        model.net.encoder = merged
    else:
        model.encoder = merged
    names = list(model.state_dict())
    assert names == list(make(kind).state_dict())
    torch.testing.assert_close(flat(model.eval()(inputs(kind))), adapted, rtol=1e-4, atol=1e-5)


def test_an_adapter_on_a_global_projection_has_an_effect() -> None:
    """Rows of few global tokens are computed without calling these projections."""
    peft = pytest.importorskip("peft")
    for name in ("query_global", "key_global", "value_global"):
        model = make("classification").eval()
        for attention in model.encoder.attentions():
            # Otherwise scores are so even that queries and keys hardly count.
            torch.nn.init.normal_(attention.query_global.weight)
            torch.nn.init.normal_(attention.key_global.weight)
        before = flat(model(inputs("classification")))
        config = peft.LoraConfig(r=2, target_modules=[name], init_lora_weights=False)
        peft.inject_adapter_in_model(config, model.encoder)
        after = flat(model(inputs("classification")))
        assert (after - before).abs().max() > 1e-4, name


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("language", marks=pytest.mark.long), "user"])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_module_trains_as_a_plain_one(kind: str) -> None:
    plain, model = make(kind), make(kind)
    expected = flat(plain(inputs(kind)))
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(flat(compiled(inputs(kind))), expected)
    for module in (plain, compiled):
        run = trainer(max_steps=1, limit_val_batches=1)
        run.fit(module, datamodule=data(kind))  # type: ignore[arg-type]
    for name, value in model.state_dict().items():
        # The bias of keys shifts all scores alike: its gradient is nothing but rounding.
        if "key" not in name or "bias" not in name:
            torch.testing.assert_close(value, plain.state_dict()[name], msg=name)
