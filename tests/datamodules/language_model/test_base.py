"""Under a Trainer: stages, processes, and a position that survives any interruption."""

import itertools
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules import TextFiles
from datamodules.loading.shards import ALONE
from tests.children import run_program

ROOT = Path(__file__).parents[3]

pytestmark = [
    # Lightning asks torch for a tree in a way that torch has renamed.
    pytest.mark.filterwarnings(
        "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"
    ),
    # The runs that resume save nothing themselves.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


class Recorder(LightningModule):
    """Keeps the batches it is given."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[torch.Tensor] = []
        self.validated = 0
        self.fail_at = fail_at

    def training_step(self, batch, batch_idx):
        if len(self.seen) == self.fail_at:
            raise RuntimeError("power cut")
        self.seen.append(batch["input_ids"].clone())
        return self.weight * batch["input_ids"].float().mean()

    def validation_step(self, batch, batch_idx):
        self.validated += 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(torch.randint(128, (1000,)).tolist()))
    return str(path)


def data_of(text: str, **fields) -> TextFiles:
    """Five batches an epoch, one of validation."""
    defaults = {"sequence_length": 40, "batch_size": 4, "val_fraction": 0.15, "test_fraction": 0}
    return TextFiles(text, **{**defaults, **fields})


def trainer_of(folder: Path, *callbacks: Callback, **fields) -> Trainer:
    defaults = {"max_epochs": 3, "num_sanity_val_steps": 0}
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
        **{**defaults, **fields},
    )


def every_step(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(
        folder, "{step}", every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False
    )


def assert_same(seen: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(seen) == len(expected)
    assert all(map(torch.equal, seen, expected))


def test_each_batch_of_a_run_is_a_function_of_its_number(text: str, tmp_path: Path) -> None:
    data, model = data_of(text), Recorder()
    trainer_of(tmp_path).fit(model, datamodule=data)
    source = data_of(text).train_source(ALONE)
    assert len(source) == 5
    assert_same(model.seen, [source[k]["input_ids"] for k in range(15)])
    assert len({tuple(batch.flatten().tolist()) for batch in model.seen}) == 15
    assert model.validated == 3
    assert data.state_dict()["batches_done"] == 15


@pytest.mark.parametrize("fields", [{}, {"num_workers": 2}, {"stream": True}])
def test_a_resumed_run_sees_exactly_the_rest(text: str, tmp_path: Path, fields) -> None:
    whole = Recorder()
    trainer_of(tmp_path, every_step(tmp_path)).fit(whole, datamodule=data_of(text, **fields))
    for step in (1, 3, 5, 6, 10, 14):
        model = Recorder()
        trainer = trainer_of(tmp_path / "again")
        trainer.fit(
            model, datamodule=data_of(text, **fields), ckpt_path=tmp_path / f"step={step}.ckpt"
        )
        assert_same(model.seen, whole.seen[step:])
        assert torch.equal(model.weight, whole.weight)


def test_a_resume_after_an_epoch_sees_exactly_the_rest(text: str, tmp_path: Path) -> None:
    whole = Recorder()
    at_the_end = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    trainer_of(tmp_path, at_the_end).fit(whole, datamodule=data_of(text))
    model = Recorder()
    trainer_of(tmp_path / "again").fit(
        model, datamodule=data_of(text), ckpt_path=tmp_path / "epoch=1.ckpt"
    )
    assert_same(model.seen, whole.seen[10:])


class SaveOnException(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(self, trainer, pl_module, exception) -> None:
        trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_that_failed_is_taken_again(text: str, tmp_path: Path, num_workers: int) -> None:
    whole, broken, rest = Recorder(), Recorder(fail_at=7), Recorder()
    trainer_of(tmp_path).fit(whole, datamodule=data_of(text))
    saving = SaveOnException(tmp_path / "broken.ckpt")
    with pytest.raises(RuntimeError, match="power cut"):
        trainer_of(tmp_path, saving).fit(broken, datamodule=data_of(text, num_workers=num_workers))
    trainer_of(tmp_path / "again").fit(
        rest, datamodule=data_of(text), ckpt_path=tmp_path / "broken.ckpt"
    )
    assert_same(broken.seen + rest.seen, whole.seen)


def test_short_epochs_go_on_where_the_last_one_ended(text: str, tmp_path: Path) -> None:
    model = Recorder()
    trainer_of(tmp_path, limit_train_batches=2).fit(model, datamodule=data_of(text))
    source = data_of(text).train_source(ALONE)
    assert_same(model.seen, [source[k]["input_ids"] for k in range(6)])
    assert model.validated == 3, "validation ran after each short epoch"


def test_overfitting_takes_the_same_batches_again(text: str, tmp_path: Path) -> None:
    model = Recorder()
    trainer_of(tmp_path, overfit_batches=2, limit_val_batches=0).fit(
        model, datamodule=data_of(text)
    )
    assert_same(model.seen, model.seen[:2] * 3)


def test_a_second_run_goes_on_where_the_first_ended(text: str, tmp_path: Path) -> None:
    data, first, second = data_of(text), Recorder(), Recorder()
    trainer_of(tmp_path, max_epochs=1).fit(first, datamodule=data)
    trainer_of(tmp_path, max_epochs=1).fit(second, datamodule=data)
    source = data_of(text).train_source(ALONE)
    assert_same(first.seen + second.seen, [source[k]["input_ids"] for k in range(10)])
    assert data.batches_done == 10


STAGES = [(24, 4, 3), (32, 8, 5), (64, 2, 4)]


class Stages(Callback):
    """An epoch for each row of the table: sequence length, batch size, batches."""

    def __init__(self, resume_at: int = 0) -> None:
        self.begin = resume_at

    def go_to(self, trainer: Trainer, step: int) -> None:
        for stage, (length, rows, batches) in enumerate(STAGES):
            if step < batches:
                trainer.datamodule.set_stage(stage, length, rows, step, batches)
                return
            step -= batches

    def setup(self, trainer, pl_module, stage) -> None:
        self.go_to(trainer, self.begin)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        self.go_to(trainer, trainer.global_step)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_stages_change_length_and_batch_and_resume(
    text: str, tmp_path: Path, num_workers: int
) -> None:
    fields = {"max_epochs": 3, "reload_dataloaders_every_n_epochs": 1}
    whole = Recorder()
    data = data_of(text, num_workers=num_workers)
    trainer_of(tmp_path, every_step(tmp_path), Stages(), **fields).fit(whole, datamodule=data)
    shapes = [tuple(batch.shape) for batch in whole.seen]
    assert shapes == [(4, 24)] * 3 + [(8, 32)] * 5 + [(2, 64)] * 4
    for step in (2, 5, 7, 11):
        model = Recorder()
        trainer_of(tmp_path / "again", Stages(step), **fields).fit(
            model, datamodule=data_of(text), ckpt_path=tmp_path / f"step={step}.ckpt"
        )
        assert_same(model.seen, whole.seen[step:])


def test_outside_a_trainer_a_loader_is_a_plain_iterable(text: str) -> None:
    data = data_of(text)
    data.set_stage(2, 16, 4, batches_done=3, batches=8)
    loader = data.train_dataloader()
    source = data.train_source(ALONE)
    expected = [source[k]["input_ids"] for k in range(3, 8)]
    for _ in range(2):
        assert_same([batch["input_ids"] for batch in loader], expected)
    assert len(loader) == 5
    data.set_stage(2, 16, 4, batches_done=11)
    (batch,) = itertools.islice(data.train_dataloader(), 1)
    assert torch.equal(batch["input_ids"], source[11]["input_ids"])


def test_the_state_is_plain_and_keeps_configured_lengths(text: str) -> None:
    data = data_of(text)
    data.set_stage(1, 24, 4, batches_done=6)
    state = data.state_dict()
    assert {key: state[key] for key in ("stage", "batches_done", "seed")} == {
        "stage": 1,
        "batches_done": 6,
        "seed": 0,
    }
    longer = data_of(text, sequence_length=80)
    longer.load_state_dict(state)
    assert (longer.stage, longer.batches_done, longer.sequence_length) == (1, 6, 80)


def test_another_seed_and_other_data_are_told(text: str, tmp_path: Path) -> None:
    data = data_of(text)
    data.setup()
    state = data.state_dict()
    with pytest.warns(UserWarning, match="trained with data seed 0, this run has 5"):
        data_of(text, seed=5).load_state_dict(state)
    (tmp_path / "other.txt").write_text("other " * 200)
    other = data_of(str(tmp_path / "other.txt"))
    other.setup()
    with pytest.warns(UserWarning, match="the checkpoint was trained on other text"):
        other.load_state_dict(state)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_reading_batches_draws_no_random_numbers_of_the_model(text: str, num_workers: int) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    for loader in (
        data_of(text, num_workers=num_workers).train_dataloader(),
        data_of(text, num_workers=num_workers).val_dataloader(),
    ):
        assert len(list(loader)) > 0
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sequence_length": 0}, "sequence_length must be an int >= 1, got 0"),
        ({"batch_size": True}, "batch_size must be an int >= 1, got True"),
        ({"stage": -1}, "stage must be an int >= 0, got -1"),
        ({"batches_done": -1}, "batches_done must be an int >= 0, got -1"),
        ({"batches": 0}, "batches must be an int >= 1, got 0"),
    ],
)
def test_wrong_stages_are_refused(text: str, fields, message: str) -> None:
    right = {"stage": 0, "sequence_length": 8, "batch_size": 2}
    with pytest.raises(ValueError, match=message):
        data_of(text).set_stage(**{**right, **fields})


SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_base import Recorder, data_of
from lightning import Trainer

if __name__ == "__main__":
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    model = Recorder()
    trainer.fit(model, datamodule=data_of({text!r}, stream={stream}))
    torch.save(
        (model.seen, model.validated, model.weight.detach()),
        {folder!r} + f"/rank{{trainer.global_rank}}.pt",
    )
"""


@pytest.mark.parametrize(
    "stream",
    [pytest.param(False, marks=pytest.mark.long), pytest.param(True, marks=pytest.mark.slow)],
)
def test_two_processes_see_what_one_sees(text: str, tmp_path: Path, stream: bool) -> None:
    alone = Recorder()
    trainer_of(tmp_path, max_epochs=2).fit(alone, datamodule=data_of(text, stream=stream))
    script = tmp_path / "train.py"
    tests = str(Path(__file__).parent)
    script.write_text(SCRIPT.format(tests=tests, text=text, stream=stream, folder=str(tmp_path)))
    run_program(script, processes=2, folder=tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    assert all(len(batch) == 2 for seen, _, _ in ranks for batch in seen)
    pairs = zip(ranks[0][0], ranks[1][0], strict=True)
    assert_same([torch.cat(pair) for pair in pairs], alone.seen)
    assert ranks[0][1] == ranks[1][1] == alone.validated
    torch.testing.assert_close(ranks[0][2], alone.weight.detach())


def test_a_batch_that_cannot_be_divided_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datamodules.loading.shards import Shard

    data = data_of(text, batch_size=3, stream=True)
    monkeypatch.setattr(data, "_shard", lambda: Shard(0, 2))
    with pytest.raises(
        ValueError, match="batch_size 3 cannot be divided among 2 processes; choose"
    ):
        data.train_dataloader()
    with pytest.raises(ValueError, match="eval_batch_size 3 cannot be divided among 2 processes"):
        data.val_dataloader()
