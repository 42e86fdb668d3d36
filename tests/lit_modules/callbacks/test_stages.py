"""Stages run by a trainer: what model and data are given; an interrupted run changes nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_modules.callbacks.checkpoints import AtomicCheckpointIO, CheckpointError, LastCheckpoint
from lit_modules.callbacks.randomness import SeedEachBatch
from lit_modules.callbacks.stages import Stages
from lit_modules.training.optimization import configure_adamw
from lit_modules.training.stages import Stage

ROWS = [
    Stage(steps=4, sequence_length=8, batch_size=2, accumulation=3),
    Stage(steps=3, sequence_length=16, window_scale=2.0, learning_rate_scale=0.5, batch_size=1),
]


class Model(LightningModule):
    """A small network with dropout that notes under which stage each batch was trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.window_scale = 1.0
        self.seen: list[tuple[Any, ...]] = []
        self.losses: list[float] = []

    def set_window_scale(self, factor: float) -> None:
        self.window_scale = factor

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.seen.append((tuple(batch.shape), float(batch[0, 0]), self.window_scale, rate))
        loss = self.net(batch[..., None]).pow(2).mean()
        self.losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        torch.rand(7)  # Random numbers that training must not notice.

    def configure_optimizers(self) -> Any:
        return configure_adamw(self, learning_rate=0.1)


class Data(LightningDataModule):
    """Batches that tell their own number."""

    def set_stage(self, **fields: int) -> None:
        self.stage = fields

    def train_dataloader(self) -> DataLoader[Any]:
        s = self.stage
        batches = [
            torch.full((s["batch_size"], s["sequence_length"]), float(100 * s["stage"] + number))
            for number in range(s["batches_done"], s["batches"])
        ]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader([torch.ones(1, 8)], batch_size=None)  # type: ignore[arg-type]


class StopAfter(Callback):
    """Breaks the run after a number of batches, be it between two optimizer steps."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.total.ready == self.batches:
            raise RuntimeError("power cut")


def fit(
    folder: Path, *extra: Callback, resume: bool = False, rows: list[Stage] = ROWS, **trainer: Any
) -> tuple[Model, Trainer]:
    model = Model()
    run = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[
            Stages(rows, warmup=0.5),
            SeedEachBatch(seed=3),
            LastCheckpoint(folder, 1),
            *extra,
        ],
        plugins=[AtomicCheckpointIO()],
        **{"max_epochs": -1, **trainer},
    )
    try:
        run.fit(model, datamodule=Data(), ckpt_path=folder / "last.ckpt" if resume else None)
    except RuntimeError as error:
        assert str(error) == "power cut"  # noqa: PT017
    return model, run


@pytest.fixture
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Trainer]:
    return fit(tmp_path_factory.mktemp("whole"))


def test_each_stage_has_its_length_batch_windows_and_rate(whole: tuple[Model, Trainer]) -> None:
    model, trainer = whole
    assert trainer.global_step == 7
    assert [shape for shape, *_ in model.seen] == [(2, 8)] * 12 + [(1, 16)] * 3
    assert [number for _, number, *_ in model.seen] == [*range(12), 100, 101, 102]
    assert [scale for *_, scale, _ in model.seen] == [1.0] * 12 + [2.0] * 3
    rates = [rate for *_, rate in model.seen]
    assert rates == pytest.approx([0.05] * 3 + [0.1] * 9 + [0.05] * 3)


@pytest.mark.parametrize("batches", [1, 2, 3, 7, 11, 12, 13, 14])
def test_a_run_that_broke_anywhere_ends_with_the_same_weights(
    whole: tuple[Model, Trainer], tmp_path: Path, batches: int
) -> None:
    broken, _ = fit(tmp_path, StopAfter(batches))
    assert len(broken.losses) == batches
    if batches < 3:  # No optimizer step yet, so nothing to resume.
        assert not (tmp_path / "last.ckpt").exists()
        return
    resumed, trainer = fit(tmp_path, resume=True)
    first = len(whole[0].seen) - len(resumed.seen)
    assert batches - 3 < first <= batches
    assert resumed.seen == whole[0].seen[first:]
    assert resumed.losses == whole[0].losses[first:]
    assert trainer.global_step == 7
    for ours, theirs in zip(resumed.parameters(), whole[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_validation_within_a_stage_changes_nothing(
    whole: tuple[Model, Trainer], tmp_path: Path
) -> None:
    model, _ = fit(tmp_path, val_check_interval=0.25)
    assert model.losses == whole[0].losses


def test_a_limit_of_steps_ends_the_run_and_can_be_lifted(
    whole: tuple[Model, Trainer], tmp_path: Path
) -> None:
    limited, trainer = fit(tmp_path, max_steps=5)
    assert trainer.global_step == 5
    assert limited.losses == whole[0].losses[:13]
    resumed, _ = fit(tmp_path, resume=True)
    assert resumed.losses == whole[0].losses[13:]


def test_a_finished_run_goes_on_with_a_longer_context(
    whole: tuple[Model, Trainer], tmp_path: Path
) -> None:
    fit(tmp_path)
    longer = [*ROWS, Stage(steps=2, sequence_length=32, window_scale=4.0, batch_size=1)]
    resumed, trainer = fit(tmp_path, resume=True, rows=longer)
    assert [(shape, scale) for shape, _, scale, _ in resumed.seen] == [((1, 32), 4.0)] * 2
    assert trainer.global_step == 9


def test_a_finished_run_has_nothing_left(tmp_path: Path) -> None:
    fit(tmp_path)
    resumed, trainer = fit(tmp_path, resume=True)
    assert resumed.seen == []
    assert trainer.global_step == 7


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(tmp_path, StopAfter(6))
    good = (tmp_path / "last.ckpt").read_bytes()

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        CheckpointError,
        match=r"No space left on device; the checkpoint written there before is kept",
    ):
        fit_again(tmp_path)
    assert (tmp_path / "last.ckpt").read_bytes() == good
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def fit_again(folder: Path) -> None:
    try:
        fit(folder, resume=True)
    except AssertionError as error:
        # `fit` expects no other error than its own.
        raise error.__context__ or error from None


def test_a_limit_of_batches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"limit_train_batches is 2, .* give trainer\.max_steps"):
        fit(tmp_path, limit_train_batches=2)


class Fixed(LightningDataModule):
    """A data set without stages."""

    train_dataloader = val_dataloader = Data.val_dataloader  # type: ignore[assignment]


def test_data_without_stages_is_refused() -> None:
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        callbacks=[Stages(ROWS)],
        max_epochs=-1,
    )
    with pytest.raises(ValueError, match=r"data set with set_stage\(\), Fixed has none"):
        trainer.fit(Model(), datamodule=Fixed())


def test_without_a_table_nothing_happens(tmp_path: Path) -> None:
    callback = Stages()
    assert callback.learning_rate_factor(5) == 1.0
    assert callback.position(5) is None
