"""The masked language model under a trainer: figures, what trains, checkpoints, commands."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lit_modules.cli import main
from lit_modules.masked_language_model import MaskedLanguageModel
from lit_modules.nn.encoder.encoder import Encoder, EncoderConfig
from lit_modules.nn.encoder.masked_lm import MaskedLM
from lit_modules.pretrained.backbone import EncoderSettings
from lit_modules.weights import load_masked_lm, save_masked_lm

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
)

SIZES: dict[str, Any] = dict(layers=2, heads=2, width=8, feedforward_width=12)


def make(pad_id: int = 1, learning_rate: float = 1e-2, **fields: Any) -> MaskedLanguageModel:
    torch.manual_seed(0)
    own = {k: fields.pop(k) for k in ("unit", "global_projections", "weight_decay") if k in fields}
    given = fields if "path" in fields else {**SIZES, "dropout": 0.0, "window": 8, **fields}
    settings = EncoderSettings(**given)
    return MaskedLanguageModel(
        30, pad_id=pad_id, encoder=settings, learning_rate=learning_rate, **own
    )


def batch(rows: int = 2, length: int = 16, seed: int = 1, **extra: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 30, (rows, length), generator=generator)
    chosen = torch.rand(rows, length, generator=generator) < 0.3
    return {
        "input_ids": ids.masked_fill(chosen, 4),
        "labels": ids.masked_fill(~chosen, -100),
        "units_scored": chosen.sum(1) * 3,
        **extra,
    }


def loader(*data: dict[str, Any]) -> DataLoader:
    return DataLoader(list(data), batch_size=None)  # type: ignore[arg-type]


def trainer(folder: Path, **fields: Any) -> Trainer:
    quiet: dict[str, Any] = dict(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        log_every_n_steps=1,
    )
    return Trainer(**{**quiet, **fields})


def test_figures_are_exact_sums(tmp_path: Path) -> None:
    model = make()
    data = [batch(), batch(1, 11, seed=2)]
    [found] = trainer(tmp_path).test(model, loader(*data), verbose=False)
    nats = torch.tensor(0.0, dtype=torch.float64)
    model.eval()
    for one in data:
        logits = model(one["input_ids"]).double().flatten(0, 1)
        nats += cross_entropy(logits, one["labels"].flatten(), reduction="sum").detach()
    tokens = sum(int((one["labels"] != -100).sum()) for one in data)
    assert found["test/loss"] == pytest.approx(float(nats) / tokens, rel=1e-6)
    # What the paper calls bits per character is bits per masked token.
    assert found["test/bpt"] == pytest.approx(float(nats) / tokens / math.log(2), rel=1e-6)
    assert found["test/bpc"] == pytest.approx(found["test/bpt"] / 3, rel=1e-6)
    assert set(found) == {"test/loss", "test/bpc", "test/bpt"}


def test_training_lowers_the_loss_and_logs_its_speed(tmp_path: Path) -> None:
    model = make(learning_rate=3e-2)
    run = trainer(tmp_path, max_epochs=30)
    run.fit(model, loader(batch()), loader(batch()))
    figures = run.callback_metrics
    assert figures["val/loss"] < 0.5 * math.log(30)
    assert figures["train/bpt"] == pytest.approx(3 * float(figures["train/bpc"]), rel=1e-6)
    assert figures["train/tokens_per_second"] > 0
    assert figures["train/flops_per_second"] > 0


def test_padding_and_other_documents_are_not_seen() -> None:
    model = make().eval()
    for parameter in model.network.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    segments = torch.zeros(2, 16, dtype=torch.int64)
    segments[:, 8:] = 1
    key_mask = torch.ones(2, 16, dtype=torch.bool)
    key_mask[:, 14:] = False
    one = batch(segment_ids=segments, key_mask=key_mask)
    one["labels"][:, 8:] = -100
    other = {**one, "input_ids": one["input_ids"].clone()}
    other["input_ids"][:, 8:] = 7
    kept, same = (model.score(given, "val")[0].detach() for given in (one, other))
    torch.testing.assert_close(kept, same, rtol=1e-6, atol=0)
    open_ = {k: v for k, v in other.items() if k != "segment_ids"}
    assert abs(float(model.score(open_, "val")[0].detach() - kept)) > 0.1


def projections(net: MaskedLM, suffix: str = "") -> torch.Tensor:
    attentions = list(net.encoder.attentions())
    names = [f"{n}{suffix}.{p}" for n in ("query", "key", "value") for p in ("weight", "bias")]
    return torch.cat([a.get_parameter(n).flatten() for a in attentions for n in names])


def test_global_projections_are_refreshed_in_checkpoints_and_at_the_end(tmp_path: Path) -> None:
    model = make()
    before = projections(model.network).detach().clone()
    run = trainer(tmp_path, max_epochs=3)
    run.fit(model, loader(batch()))
    run.save_checkpoint(tmp_path / "a.ckpt")
    assert not torch.equal(projections(model.network), before)
    assert torch.equal(projections(model.network, "_global"), projections(model.network))
    again = MaskedLanguageModel.load_from_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(projections(again.network, "_global"), projections(model.network))
    # No optimizer state is kept for what does not train.
    trained = sum(p.numel() for g in run.optimizers[0].param_groups for p in g["params"])
    frozen = before.numel() + sum(p.numel() for p in model.network.encoder.pooler.parameters())
    assert trained == sum(p.numel() for p in model.network.parameters()) - frozen


def test_a_checkpoint_in_the_middle_has_them_refreshed_too() -> None:
    model = make()
    with torch.no_grad():
        for attention in model.network.encoder.attentions():
            attention.query.weight.add_(1)
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    state = checkpoint["state_dict"]
    for name in [name for name in state if "query_global.weight" in name]:
        assert torch.equal(state[name], state[name.replace("_global", "")])


def test_global_tokens_train_their_projections_where_that_is_asked_for(tmp_path: Path) -> None:
    marks = torch.zeros(2, 16, dtype=torch.bool)
    marks[:, 0] = True
    with pytest.raises(ValueError, match="set the model's global_projections to trained"):
        make().score(batch(global_mask=marks), "train")
    model = make(global_projections="trained")
    trainer(tmp_path, max_epochs=2).fit(model, loader(batch(global_mask=marks)))
    assert not torch.equal(projections(model.network, "_global"), projections(model.network))


def short(folder: Path, **fields: Any) -> MaskedLM:
    """Saves pretrained weights of 16 tokens with a head, and returns them."""
    torch.manual_seed(3)
    config = EncoderConfig(30, **SIZES, positions=18, pad_id=1, dropout=0.0, **fields)
    model = MaskedLM(Encoder(config)).eval()
    torch.nn.init.normal_(model.head.bias)
    save_masked_lm(model, folder)
    return model


def test_only_positions_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short(tmp_path / "short")
    path = str(tmp_path / "short")
    model = make(path=path, max_length=32, window=4, train_only="positions", weight_decay=0.0)
    assert "16 made 32: 2 copies" in capsys.readouterr().out
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer(tmp_path, max_epochs=2).fit(model, loader(batch(length=32)))
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert changed == ["net.encoder.embeddings.position_embeddings.weight"]


def test_a_checkpoint_needs_its_pretrained_weights_no_more(tmp_path: Path) -> None:
    short(tmp_path / "short")
    model = make(path=str(tmp_path / "short"), max_length=32, window=4)
    run = trainer(tmp_path)
    run.fit(model, loader(batch(length=32)))
    run.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    (tmp_path / "short").rename(tmp_path / "gone")
    ids = batch(length=32)["input_ids"]
    again = MaskedLanguageModel.load_from_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(again.eval()(ids), model.eval()(ids))
    # As the command line does it: the configuration names the weights, the checkpoint has them.
    other = make(path=str(tmp_path / "short"), max_length=32, window=4)
    one = batch(length=32)
    [found] = trainer(tmp_path).test(other, loader(one), str(tmp_path / "a.ckpt"), verbose=False)
    [expected] = trainer(tmp_path).test(model, loader(one), verbose=False)
    assert found == expected
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        make(path=str(tmp_path / "short")).network  # noqa: B018


def test_predictions_are_the_likeliest_words() -> None:
    model = make().eval()
    one = batch()
    found = model.predict_step(one, 0)
    scored = one["labels"] != -100
    assert [len(row["places"]) for row in found] == scored.sum(1).tolist()
    assert [row["words"] for row in found] == [
        one["labels"][index][scored[index]].tolist() for index in range(2)
    ]
    logits = model(one["input_ids"])
    assert found[1]["likeliest"] == logits[1].argmax(-1)[scored[1]].tolist()


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="global_projections must be refreshed or trained"):
        make(global_projections="kept")
    with pytest.raises(ValueError, match="unit must be one of byte, character, token, got 'word'"):
        make(unit="word")
    with pytest.raises(ValueError, match=r"input_ids must be in 0\.\.29"):
        make().score({**batch(), "input_ids": torch.full((2, 16), 30)}, "val")


# ---------------------------------------------------------------- the command line

SMALL: dict[str, Any] = {
    "data": {
        "name": "masked-text",
        "files": "text.txt",
        "documents": "lines",
        "tokenizer": "tokenizer.json",
        "sequence_length": 24,
        "val_fraction": 0.1,
        "test_fraction": 0.1,
        "cache_dir": "cache",
        "segments": True,
    },
    "model": {
        "name": "masked-language-model",
        "encoder": {**SIZES, "window": 8, "max_length": 32},
        "learning_rate": 1e-3,
    },
    "stages": {
        "table": [{"steps": 4, "sequence_length": "${data.sequence_length}", "batch_size": 2}],
        "warmup_limit": 2,
        "warmup": 1.0,
        "decay": "polynomial",
        "power": 3.0,
    },
    "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1},
    "run": {"pictures": False},
}
TEXT = "".join(f"the {n}th quick brown fox jumps over {n} lazy dogs.\n" for n in range(120))


@pytest.mark.slow
def test_the_command_line_trains_resumes_and_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    Path("text.txt").write_text(TEXT)
    Path("small.yaml").write_text(yaml.safe_dump(SMALL))

    def run(*words: str) -> str:
        capsys.readouterr()
        status = main([*words])
        printed = capsys.readouterr()
        assert status == 0, printed.err
        return printed.out

    vocabulary = ["--vocabulary-size", "300", "--documents", "lines"]
    out = run("train-tokenizer", "text.txt", "--output", "tokenizer.json", *vocabulary)
    assert "300 tokens" in out
    run("fit", "--config", "small.yaml")
    figures = json.loads(Path("runs/small/figures.json").read_text())
    assert {"test/loss", "test/bpc", "test/bpt", "val/bpc"} <= set(figures)
    assert 0 < figures["test/bpc"] < figures["test/bpt"]
    whole = torch.load("runs/small/checkpoints/last.ckpt", weights_only=True)
    assert whole["hyper_parameters"]["vocabulary_size"] == 300
    assert whole["hyper_parameters"]["pad_id"] == 1
    # A run that stops after two steps and goes on is the run that did not.
    run("fit", "--config", "small.yaml", "--run.name", "cut", "--trainer.max_steps", "2")
    run("fit", "--config", "small.yaml", "--run.name", "cut", "--ckpt_path", "last")
    cut = torch.load("runs/cut/checkpoints/last.ckpt", weights_only=True)
    assert cut["global_step"] == whole["global_step"] == 4
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(cut["state_dict"][name], tensor), name
    run("test", "--config", "runs/small/config.yaml", "--ckpt_path", "best")
    again = json.loads(Path("runs/small/figures.json").read_text())
    assert again["test/bpc"] == figures["test/bpc"]
    run("predict", "--config", "runs/small/config.yaml", "--ckpt_path", "last")
    run("export", "runs/small/checkpoints/last.ckpt", "exported")
    exported = load_masked_lm("exported")
    state = {f"net.{name}": tensor for name, tensor in exported.state_dict().items()}
    assert all(torch.equal(whole["state_dict"][name], t) for name, t in state.items())
    assert Path("exported/tokenizer.json").read_bytes() == Path("tokenizer.json").read_bytes()
    # What was exported is where the next run starts.
    words = ["--data.tokenizer", "exported", "--model.encoder.path", "exported"]
    model = {"name": "masked-language-model"}
    Path("next.yaml").write_text(yaml.safe_dump({**SMALL, "model": model}))
    out = run("fit", "--config", "next.yaml", *words, "--trainer.fast_dev_run", "1")
    assert "head       loaded" in out
    # Defaults are those of this model, not of the language model.
    assert whole["hyper_parameters"]["betas"] == [0.9, 0.98]
    assert main(["fit", "--config", "small.yaml", *words]) == 1
    assert "error: encoder layers is decided by the weights at path" in capsys.readouterr().err
    assert main(["export", "runs/small/checkpoints/last.ckpt", "exported"]) == 2
    assert "exported exists and is not an empty folder" in capsys.readouterr().err
    assert main(["train-tokenizer", "text.txt", "--output", "tokenizer.json"]) == 2
    assert "--output tokenizer.json exists" in capsys.readouterr().err


def test_a_data_set_without_padding_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--data", "recall", "--model", "masked-language-model"]
    assert main([*words, "--trainer.accelerator", "cpu"]) == 1
    message = capsys.readouterr().err
    assert "MaskedLanguageModel takes 'pad_id' from its data set, which Recall does" in message
