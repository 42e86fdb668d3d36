"""A module is whole when its constructor returns; what is asked of it before it runs is kept."""

import copy
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from lit_modules.language_model import LanguageModel
from lit_modules.masked_language_model import MaskedLanguageModel
from lit_modules.nn.encoder.encoder import Encoder, EncoderConfig
from lit_modules.pretrained.backbone import EncoderSettings
from lit_modules.task import TaskModule
from lit_modules.weights import save_encoder
from tests.lit_modules.modules.kinds import (
    ENCODERS,
    KINDS,
    SOME,
    ErrorHead,
    data,
    flat,
    inputs,
    make,
    trainer,
)
from tests.lit_modules.task_batches import COMMON


def dropping(kind: str) -> Any:
    """A module with dropout."""
    if kind == "language":
        return make(kind, dropout=0.5)
    encoder = EncoderSettings(layers=1, heads=2, width=32, window=8, max_length=24, dropout=0.5)
    return make(kind, encoder=encoder)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_there_and_stays(kind: str) -> None:
    model = make(kind)
    names = list(model.state_dict())
    parameters = list(model.parameters())
    assert sum(p.numel() for p in parameters) > 1000
    assert all(bool(p.isfinite().all()) for p in parameters)
    assert float(torch.cat([p.detach().flatten() for p in parameters]).std()) > 0.01
    model.configure_model()
    model(inputs(kind))
    model.configure_optimizers()
    assert list(model.state_dict()) == names
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_mode_before_the_first_call_is_kept(kind: str) -> None:
    training = flat(dropping(kind)(inputs(kind)))
    model = dropping(kind).eval()
    assert not any(module.training for module in model.modules())
    once, twice = flat(model(inputs(kind))), flat(model(inputs(kind)))
    assert torch.equal(once, twice)
    assert once.shape != training.shape or not torch.equal(once, training)


@pytest.mark.parametrize("kind", KINDS)
def test_freezing_before_the_first_call_is_kept(kind: str) -> None:
    model = make(kind).requires_grad_(False)
    model(inputs(kind))
    assert not any(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="at least one parameter with requires_grad"):
        model.configure_optimizers()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_type_before_the_first_call_is_kept(kind: str, dtype: torch.dtype) -> None:
    model = make(kind).to(dtype).eval()
    with torch.no_grad():
        model(inputs(kind))
    assert {p.dtype for p in model.parameters()} == {dtype}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_load_at_once(kind: str, strict: bool) -> None:
    source = make(kind).eval()
    for parameter in source.parameters():
        nn.init.normal_(parameter, std=0.1)
    model = make(kind).eval()
    found = model.load_state_dict(source.state_dict(), strict=strict)
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    assert torch.equal(flat(model(inputs(kind))), flat(source(inputs(kind))))


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_whole_and_its_own(kind: str) -> None:
    model = make(kind).eval()
    expected = flat(model(inputs(kind)))
    twin = copy.deepcopy(make(kind)).eval()
    assert torch.equal(flat(twin(inputs(kind))), expected)
    for parameter in twin.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(flat(model(inputs(kind))), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_counts_where_the_module_is_made(kind: str) -> None:
    one = make(kind)
    torch.manual_seed(99)
    one(inputs(kind))
    other = make(kind)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_a_subclass_finds_the_encoder_and_may_make_layers_of_its_own() -> None:
    class Adapted(ErrorHead):
        def __init__(self, vocabulary_size: int, **common: Any) -> None:
            super().__init__(vocabulary_size, **common)
            self.encoder.requires_grad_(False)
            self.teacher = nn.Linear(self.encoder.config.width, 1)

    model = Adapted(**COMMON)
    trained = {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"inside", "number", "teacher"}
    rates = {p: g["lr"] for g in heads_rate(model) for p in g["params"]}
    assert {rates[p] for p in model.number.parameters()} == {0.5}
    assert {rates[p] for p in model.teacher.parameters()} != {0.5}


def heads_rate(model: TaskModule) -> list[dict[str, Any]]:
    model.hparams["head_learning_rate"] = 0.5
    groups: list[dict[str, Any]] = model.configure_optimizers()["optimizer"].param_groups
    return groups


def test_the_arguments_of_a_head_are_seen_from_outside() -> None:
    assert list(inspect.signature(ErrorHead).parameters) == ["vocabulary_size", "inner", "common"]
    assert ErrorHead(**COMMON, inner=3).hparams["inner"] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_on_the_meta_device_the_names_and_shapes_are_there(kind: str) -> None:
    with torch.device("meta"):
        model = make(kind)
        model.configure_model()
    assert all(p.is_meta for p in model.parameters())
    shapes = {name: p.shape for name, p in make(kind).named_parameters()}
    assert {name: p.shape for name, p in model.named_parameters()} == shapes


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_the_meta_device_is_filled_before_it_trains(kind: str) -> None:
    with torch.device("meta"):
        model = make(kind)
    model.requires_grad_(False)
    next(model.parameters()).requires_grad_(True)
    model.configure_model()
    assert [p.requires_grad for p in model.parameters()].count(True) == 1
    assert model.device.type == "cpu"
    # Drawn from the same distributions: as wide, and exact where nothing is drawn.
    for name, wanted in make(kind).named_parameters():
        found = model.get_parameter(name).detach()
        if float(wanted.detach().abs().amax()) in (0.0, 1.0):
            assert torch.equal(found, wanted), name
        elif found.numel() >= 64:
            assert 0.7 < float(found.std()) / float(wanted.detach().std()) < 1.4, name
    model.requires_grad_(True)
    trainer(max_steps=1).fit(model, datamodule=data(kind))


@pytest.mark.parametrize("kind", SOME)
def test_a_checkpoint_fills_an_empty_model(kind: str, tmp_path: Path) -> None:
    run = trainer(max_steps=1)
    source = make(kind)
    run.fit(source, datamodule=data(kind))
    run.save_checkpoint(tmp_path / "a.ckpt")
    with Trainer(accelerator="cpu", logger=False).init_module(empty_init=True):
        model = make(kind)
    trainer().validate(model, datamodule=data(kind), ckpt_path=tmp_path / "a.ckpt", verbose=False)
    for name, value in source.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def pretrained(folder: Path) -> EncoderSettings:
    config = EncoderConfig(
        vocabulary_size=20, layers=1, heads=2, width=16, positions=30, pad_id=1,
        pattern="longformer", global_projections=True,
    )  # fmt: skip
    save_encoder(Encoder(config), folder)
    return EncoderSettings(path=str(folder))


@pytest.mark.parametrize("kind", ENCODERS)
def test_pretrained_weights_are_read_under_the_meta_device_too(kind: str, tmp_path: Path) -> None:
    settings = pretrained(tmp_path / "weights")
    with torch.device("meta"):
        model = make(kind, encoder=settings, pad_id=1)
    assert not any(p.is_meta for p in model.parameters())
    model.configure_model()
    plain = make(kind, encoder=settings, pad_id=1)
    for name, value in model.encoder.named_parameters():
        if "word" not in name:  # Words beyond those of the weights are drawn.
            assert torch.equal(value, plain.encoder.get_parameter(name)), name


@pytest.mark.parametrize("kind", ENCODERS)
def test_without_its_weights_a_module_waits_for_a_checkpoint(kind: str, tmp_path: Path) -> None:
    settings = pretrained(tmp_path / "weights")
    source = make(kind, encoder=settings, pad_id=1)
    run = trainer(max_steps=1)
    run.fit(source, datamodule=data(kind))
    run.save_checkpoint(tmp_path / "a.ckpt")
    (tmp_path / "weights").rename(tmp_path / "gone")
    model = make(kind, encoder=settings, pad_id=1).eval().double()
    refused = pytest.raises(FileNotFoundError, match=re.escape(f"{settings.path}: no such file"))
    for attempt in (
        lambda: model(inputs(kind)),
        lambda: model.requires_grad_(False),
        lambda: model.load_state_dict(source.state_dict(), strict=False),
        lambda: model.configure_optimizers(),
        lambda: model.backbone,
        lambda: trainer(max_steps=1).fit(model, datamodule=data(kind)),
        lambda: trainer().test(model, datamodule=data(kind), verbose=False),
    ):
        with refused:
            attempt()
    model = make(kind, encoder=settings, pad_id=1).eval().double()
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    model.on_load_checkpoint(checkpoint)
    model.load_state_dict(checkpoint["state_dict"])
    # What was asked for while it waited.
    assert not any(module.training for module in model.modules())
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    trainer().test(model, datamodule=data(kind), verbose=False)


@pytest.mark.parametrize("made", [LanguageModel, MaskedLanguageModel, ErrorHead])
def test_sizes_that_the_data_decides_are_arguments(made: Any) -> None:
    with pytest.raises(
        TypeError, match="missing 1 required positional argument: 'vocabulary_size'"
    ):
        made()


EVERY = {
    "learning_rate": [0.0, -1.0, float("nan"), float("inf")],
    "weight_decay": [-1.0, float("nan")],
    "betas": [(0.9, 1.0), (-0.1, 0.9), (0.9,)],
}
OF_TASKS = {"head_learning_rate": [0.0, -1.0], "warmup": [-1.0], "decay": ["square"]}
OF_SAMPLING = {"max_new": [-1], "temperature": [0.0, -1.0], "top_k": [0], "top_p": [0.0, 2.0]}


@pytest.mark.parametrize("kind", SOME)
def test_a_number_that_cannot_be_used_is_refused_at_once(kind: str) -> None:
    more: dict[str, Any] = {} if kind == "masked" else OF_TASKS
    if kind == "language":
        more = {**OF_SAMPLING, "kernel": ["none-such"]}
    wrong: dict[str, Any] = {**EVERY, **more}
    for name, values in wrong.items():
        for value in values:
            shown = re.escape(str(list(value) if isinstance(value, tuple) else value))
            with pytest.raises(ValueError, match=rf"^{name} must be .*got '?{shown}'?$"):
                make(kind, **{name: value})
