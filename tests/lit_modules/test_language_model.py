"""The language model under a trainer: metrics, optimizer, memory, checkpoints, prediction."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import sparse_patterns as sp
from datamodules.language_model.text_files import TextFiles
from lit_modules.language_model import LanguageModel

# What these small runs leave out on purpose.
pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
)

FIELDS: dict[str, Any] = dict(
    vocabulary_size=11,
    layers=2,
    heads=2,
    width=16,
    dropout=0.0,
    pattern={"window": {"left": 5, "right": 0}},
)


def make(**fields) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(**{**FIELDS, **fields})


def batches(count: int, rows: int = 2, length: int = 12, **extra) -> list[dict[str, torch.Tensor]]:
    """Consecutive segments of `rows` streams."""
    generator = torch.Generator().manual_seed(1)
    stream = torch.randint(11, (rows, count * length + 1), generator=generator)
    made = []
    for index in range(count):
        piece = stream[:, index * length : (index + 1) * length + 1]
        made.append({"input_ids": piece[:, :-1], "labels": piece[:, 1:], **extra})
        if extra.get("continues") is not None:
            made[-1]["continues"] = torch.full((rows,), index > 0)
    return made


STREAMS = {"continues": True}


def loader(data: list[dict[str, torch.Tensor]]) -> DataLoader:
    return DataLoader(data, batch_size=None)


def trainer(folder: Path, **fields) -> Trainer:
    quiet = dict(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        max_epochs=1,
    )
    return Trainer(**{**quiet, **fields})


class Losses(Callback):
    """Notes what is logged after each batch."""

    def __init__(self, name: str = "train/loss") -> None:
        self.name, self.seen = name, []

    def on_train_batch_end(self, trainer, pl_module, *_: Any) -> None:
        self.seen.append(float(trainer.callback_metrics[self.name]))


def test_first_loss_and_the_names_that_are_logged(tmp_path):
    model, losses = make(), Losses()
    fit = trainer(tmp_path, callbacks=[losses])
    fit.fit(model, loader(batches(1) * 3), loader(batches(1)))
    assert abs(losses.seen[0] - math.log(11)) < 0.03
    assert losses.seen[2] < losses.seen[0]
    names = {name for name in fit.callback_metrics if name.startswith("train/")}
    assert names == {
        "train/loss",
        "train/bpb",
        "train/tokens_per_second",
        "train/flops_per_second",
        "train/peak_memory_mib",
    }
    assert {"val/loss", "val/bpb"} < set(fit.callback_metrics)
    assert all(value > 0 for value in fit.callback_metrics.values())


@pytest.mark.parametrize(
    ("unit", "name"), [("byte", "bpb"), ("character", "bpc"), ("token", "bpt")]
)
def test_bits_are_named_by_the_unit(tmp_path, unit, name):
    model = make(unit=unit)
    [found] = trainer(tmp_path).test(model, loader(batches(1)), verbose=False)
    assert set(found) == {"test/loss", f"test/{name}"}
    assert found[f"test/{name}"] == pytest.approx(found["test/loss"] / math.log(2), rel=1e-6)


def test_test_figures_are_exact_sums_over_uneven_batches(tmp_path):
    model = make()
    data = batches(2) + batches(1, rows=1, length=5)
    data[0]["labels"] = data[0]["labels"].clone()
    data[0]["labels"][0, :9] = -100
    for batch, units in zip(data, ([7, 30], [12, 12], [9]), strict=True):
        batch["units_scored"] = torch.tensor(units)
    [found] = trainer(tmp_path).test(model, loader(data), verbose=False)
    nats, tokens = 0.0, 0
    for batch in data:
        logits = model(batch["input_ids"]).double()
        for row, labels in zip(logits, batch["labels"], strict=True):
            for scores, label in zip(row, labels, strict=True):
                if label != -100:
                    nats -= scores.log_softmax(-1)[label].item()
                    tokens += 1
    assert found["test/loss"] == pytest.approx(nats / tokens, rel=1e-6)
    assert found["test/bpb"] == pytest.approx(nats / math.log(2) / 70, rel=1e-6)


def test_a_batch_without_scored_tokens_trains_nothing(tmp_path):
    model = make()
    data = batches(1)
    data[0]["labels"] = torch.full_like(data[0]["labels"], -100)
    loss = model.score(data[0], "train")
    assert float(loss[0].detach()) == 0
    fit = trainer(tmp_path)
    before = [p.clone() for p in model.decoder.parameters()]
    model.hparams["weight_decay"] = 0.0
    fit.fit(model, loader(data))
    assert all(torch.equal(p, q) for p, q in zip(model.decoder.parameters(), before, strict=True))


def test_training_step_is_the_mean_over_scored_tokens(tmp_path):
    model = make()
    losses = Losses()
    data = batches(1)
    data[0]["labels"] = data[0]["labels"].clone()
    data[0]["labels"][1, 3:] = -100
    expected = cross_entropy(
        model(data[0]["input_ids"]).flatten(0, 1), data[0]["labels"].flatten()
    ).detach()
    trainer(tmp_path, callbacks=[losses]).fit(model, loader(data))
    assert losses.seen == pytest.approx([float(expected)], rel=1e-6)


def test_weights_and_settings_load_from_a_checkpoint_of_plain_data(tmp_path):
    model = make(pattern=sp.Window.before(3) | sp.Global((0,)))
    run = trainer(tmp_path)
    run.fit(model, loader(batches(1)))
    model.set_window_scale(2)
    run.save_checkpoint(tmp_path / "model.ckpt")
    torch.load(tmp_path / "model.ckpt", weights_only=True)
    again = LanguageModel.load_from_checkpoint(tmp_path / "model.ckpt")
    assert again.decoder.pattern == model.decoder.pattern
    assert again.decoder.base_pattern == model.decoder.base_pattern
    assert dict(again.hparams) == dict(model.hparams)
    ids = torch.randint(11, (1, 9))
    assert torch.equal(again(ids), model(ids))


def test_decay_groups_and_rate_by_step():
    model = make(learning_rate=0.25, weight_decay=0.5)
    made = model.configure_optimizers()
    decayed, kept = made["optimizer"].param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.5, 0.0)
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {p.ndim for p in kept["params"]} == {1}
    assert len(decayed["params"]) + len(kept["params"]) == len(list(model.parameters()))
    assert made["lr_scheduler"]["interval"] == "step"
    assert decayed["lr"] == 0.25


def test_predict_continues_prompts(tmp_path):
    model = make(max_new=6, greedy=True)
    prompts = [{"input_ids": torch.randint(11, (2, 4))}, {"input_ids": torch.randint(11, (1, 7))}]
    found = trainer(tmp_path).predict(model, loader(prompts))
    assert [tuple(ids.shape) for ids in found] == [(2, 10), (1, 13)]
    for ids, prompt in zip(found, prompts, strict=True):
        length = prompt["input_ids"].shape[1]
        assert torch.equal(ids[:, :length], prompt["input_ids"])
        # Made under inference mode, which training cannot use.
        follows = model(ids[:, :-1].clone())[:, length - 1 :].argmax(-1)
        assert torch.equal(ids[:, length:], follows)


def test_memory_scores_segments_as_one_long_pass(tmp_path):
    data = batches(5, length=8, **STREAMS)
    model = make(memory=5)
    [found] = trainer(tmp_path).test(model, loader(data), verbose=False)
    ids, labels = (torch.cat([batch[k] for batch in data], 1) for k in ("input_ids", "labels"))
    whole = cross_entropy(model(ids).flatten(0, 1).double(), labels.flatten())
    assert found["test/loss"] == pytest.approx(float(whole.detach()), rel=1e-6)
    alone = make()
    [without] = trainer(tmp_path).test(alone, loader(data), verbose=False)
    assert abs(without["test/loss"] - found["test/loss"]) > 1e-5


@pytest.mark.parametrize("fields", [dict(memory=5), dict(eval_memory=5, memory_keys=True)])
def test_validation_and_test_have_a_memory_of_their_own_form(tmp_path, fields):
    data = batches(5, length=8, **STREAMS)
    found = [
        trainer(tmp_path).test(make(**one), loader(data), verbose=False)[0]["test/loss"]
        for one in (fields, dict(memory=5, eval_memory=0), dict())
    ]
    assert abs(found[0] - found[1]) > 1e-5
    assert found[1] == found[2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(memory=-1), "memory must be an int >= 0, in tokens, got -1"),
        (dict(eval_memory=1.5), "eval_memory must be an int >= 0, in tokens, got 1.5"),
        (dict(memory_keys=True), "memory_keys is for a memory in validation and test"),
        (dict(memory=True, pattern="full"), "got True with a pattern without limit"),
        (dict(memory=4, pattern="streaming"), "memory needs a pattern of distances"),
    ],
)
def test_a_memory_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)


def test_a_memory_may_be_as_long_as_the_pattern_sees():
    assert make(memory=True).hparams["memory"] == 5
    assert make(memory=False).hparams["memory"] == 0


def test_generation_sees_as_far_as_it_remembers():
    net = make(pattern="full", memory=3)
    limited = make(pattern=sp.Window.before(3))
    ids = torch.randint(11, (1, 8))
    seen = [list(model.generate(ids, 6, greedy=True)) for model in (net, limited)]
    assert torch.equal(torch.cat(seen[0]), torch.cat(seen[1]))


@pytest.mark.parametrize("step", [1, 3, 8])
def test_windows_with_a_step_score_as_one_long_pass(tmp_path, step):
    """Two layers of windows of 5 look back 10 tokens: so far before each scored one is enough."""
    (tmp_path / "text").write_bytes(bytes(torch.randint(97, 108, (200,)).tolist()))
    fields = dict(files=str(tmp_path / "text"), sequence_length=8, eval_length=10 + step)
    fields |= dict(cache_dir=str(tmp_path / "cache"), test_fraction=0.4, val_fraction=0.3)
    data = TextFiles(**fields, eval_step=step)
    data.setup()
    model = make(vocabulary_size=data.vocabulary_size)
    [found] = trainer(tmp_path).test(model, datamodule=data, verbose=False)
    text = (tmp_path / "text").read_bytes()[-80:]
    ids = torch.tensor(list(text))[None]
    whole = cross_entropy(model(ids[:, :-1]).flatten(0, 1).double(), ids[0, 1:])
    assert found["test/loss"] == pytest.approx(float(whole.detach()), rel=1e-6)
    # With less before it, a token is scored without all that the pattern shows it.
    data = TextFiles(**{**fields, "eval_length": 4 + step}, eval_step=step)
    [less] = trainer(tmp_path).test(model, datamodule=data, verbose=False)
    assert abs(less["test/loss"] - found["test/loss"]) > 1e-5


def test_memory_in_training_needs_to_know_what_a_row_continues(tmp_path):
    with pytest.raises(ValueError, match=r"needs batches with `continues`.*'input_ids', 'labels'"):
        trainer(tmp_path).fit(make(memory=5), loader(batches(1)))


class Stop(Callback):
    """Fails at a batch, as a full disk or a pulled plug would."""

    def __init__(self, batch: int, file: Path) -> None:
        self.batch, self.file = batch, file

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == self.batch:
            trainer.save_checkpoint(self.file)
            raise KeyError("stopped")


@pytest.mark.parametrize("stop", [4, 5], ids=["after a step", "between two steps"])
def test_a_resumed_run_remembers_what_it_would_have_remembered(tmp_path, stop):
    data = batches(8, length=8, **STREAMS)
    whole, rest = Losses(), Losses()
    model = make(memory=5, dropout=0.0)
    trainer(tmp_path, callbacks=[whole], accumulate_grad_batches=2).fit(model, loader(data))
    file = tmp_path / "stopped.ckpt"
    with pytest.raises(KeyError, match="stopped"):
        trainer(tmp_path, callbacks=[Stop(stop, file)], accumulate_grad_batches=2).fit(
            make(memory=5), loader(data)
        )
    state = torch.load(file, weights_only=True)
    again = make(memory=5)
    again.load_state_dict(state["state_dict"])
    again.on_load_checkpoint(state)
    # Both checkpoints are of the second optimizer step, after four batches.
    assert state["global_step"] == 2
    trainer(tmp_path, callbacks=[rest], accumulate_grad_batches=2).fit(again, loader(data[4:]))
    assert rest.seen[:2] == whole.seen[4:6]


@pytest.mark.slow
@pytest.mark.long
def test_compiled_and_checkpointed_training_is_plain_training(tmp_path, monkeypatch):
    compile_net = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda net: compile_net(net, backend="aot_eager")
    )
    seen = []
    for fields in ({}, {"compile": True}, {"checkpointing": True}):
        losses = Losses()
        model = make(memory=5, **fields)
        trainer(tmp_path, callbacks=[losses]).fit(model, loader(batches(4, **STREAMS)))
        seen.append((losses.seen, list(model.state_dict())))
    for other, keys in seen[1:]:
        assert other == pytest.approx(seen[0][0], rel=1e-6)
        assert keys == seen[0][1]


def test_ids_outside_the_vocabulary_are_refused(tmp_path):
    data = batches(1)
    data[0]["input_ids"] = data[0]["input_ids"] + 5
    with pytest.raises(ValueError, match=r"input_ids must be in 0..10 .* got 5..15"):
        trainer(tmp_path).fit(make(), loader(data))


def test_unknown_unit_and_pattern_are_refused():
    with pytest.raises(ValueError, match="unit must be one of byte, character, token, got 'word'"):
        make(unit="word")
    with pytest.raises(ValueError, match="streaming"):
        make(pattern="streemin")


def test_rows_that_only_fill_the_share_of_a_process_are_no_predictions() -> None:
    model = LanguageModel(16, layers=1, heads=1, width=8, max_new=2, sample_seed=0)
    ids = torch.tensor([[3, 4, 5], [0, 0, 0], [0, 0, 0]])
    labels = torch.tensor([[4, 5, 6], [-100, -100, -100], [0, 0, 0]])
    filler = torch.tensor([False, True, False])
    found = model.predict_step({"input_ids": ids, "labels": labels, "filler": filler}, 0)
    assert [row[:3].tolist() for row in found] == [[3, 4, 5], [0, 0, 0]]
    only = {"input_ids": ids[1:2], "labels": labels[1:2]}
    assert len(model.predict_step({**only, "filler": filler[1:2]}, 0)) == 0
    assert len(model.predict_step(only, 0)) == 1, "a row of zeros that is not marked is text"


def test_processes_with_sharded_weights_generate_equally_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = LanguageModel(16, layers=1, heads=1, width=8, max_new=2, sample_seed=0)
    ids = torch.tensor([[3, 4, 5]])
    calls, generate = [], model.generate

    def counted(*given, **named):
        calls.append(len(given[0]))
        return generate(*given, **named)

    monkeypatch.setattr(model, "generate", counted)
    # Another process has rows of three lengths.
    monkeypatch.setattr("lit_modules.language_model.is_sharded", lambda module: True)
    monkeypatch.setattr("lit_modules.language_model.gather", lambda own: [own, 3])
    assert len(model.predict_step({"input_ids": ids, "labels": ids}, 0)) == 1
    assert len(calls) == 3
