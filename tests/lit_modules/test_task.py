"""Every task on one base: oracle heads, overfitting, rates, checkpoints, processes."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Trainer

from lit_modules.callbacks.stages import Stages
from lit_modules.classification import Classification
from lit_modules.coreference import Coreference
from lit_modules.nn.encoder.encoder import Encoder, EncoderConfig
from lit_modules.pretrained.backbone import EncoderSettings
from lit_modules.task import TaskModule
from lit_modules.training.stages import Stage
from lit_modules.weights import save_encoder
from tests.lit_modules.task_batches import (
    BATCHES,
    COMMON,
    ENCODER,
    PAD,
    SMALL,
    VOCABULARY,
    Made,
    TaskData,
    coreference,
    eight,
    knows,
    model_of,
    ranking_of,
)

TASKS = sorted(BATCHES)
# What is learned by heart every day; the others take longer.
QUICK = ("classification",)


def trainer(**given: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        **given,
    )


def figures_of(model: TaskModule, data: TaskData) -> dict[str, float]:
    (found,) = trainer().test(model, datamodule=data, verbose=False)
    return dict(found)


def perfect(task: str, figures: dict[str, float]) -> bool:
    wanted = {
        "classification": ["accuracy", "f1", "macro_f1"],
        "candidate-choice": ["accuracy"],
        "extractive-qa": ["exact_match", "f1"],
        "multihop-qa": ["answer_exact_match", "support_exact_match", "joint_exact_match"],
        "coreference": ["muc_f1", "b_cubed_f1", "ceaf_phi4_f1", "average_f1"],
    }
    return all(figures[f"test/{name}"] == 1.0 for name in wanted[task])


@pytest.mark.parametrize("task", TASKS)
def test_a_head_that_knows_the_answer_reaches_the_top(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(task, **({"no_answer": True} if task == "extractive-qa" else {}))
    monkeypatch.setattr(model, "forward", lambda batch: knows(task, batch))
    figures = figures_of(model, TaskData(eight(task)))
    assert perfect(task, figures)
    assert figures["test/loss"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_a_fresh_head_does_not_know(task: str) -> None:
    assert not perfect(task, figures_of(model_of(task), TaskData(eight(task))))


@pytest.mark.slow
@pytest.mark.parametrize(
    "task", [pytest.param(x, marks=[] if x in QUICK else pytest.mark.long) for x in TASKS]
)
def test_eight_examples_are_learned_by_heart(task: str) -> None:
    model = model_of(task, learning_rate=1e-3, decay="none")
    steps = {"candidate-choice": 60, "coreference": 240}.get(task, 150)
    trainer(max_steps=steps).fit(model, datamodule=TaskData(eight(task) * 20))
    figures = figures_of(model, TaskData(eight(task)))
    assert perfect(task, figures), figures


@pytest.mark.parametrize("task", TASKS)
def test_every_parameter_learns_even_without_global_tokens(task: str) -> None:
    model = model_of(task)
    (batch, *_) = eight(task)
    batch["global_mask"] = torch.zeros_like(batch["global_mask"])
    losses, counts = model.losses(model(batch), batch)
    losses[counts].sum().backward()
    # None, unlike zero, would stop training on several processes.
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("task", TASKS)
def test_padding_changes_nothing(task: str) -> None:
    model = model_of(task).eval()
    (batch, *_) = eight(task)
    longer = dict(batch)
    fill = {"input_ids": PAD, "words": -1}
    for name in ("input_ids", "key_mask", "global_mask", "context_mask", "words"):
        if name in batch:
            pad = torch.full((len(batch[name]), 5), fill.get(name, 0), dtype=batch[name].dtype)
            longer[name] = torch.cat((batch[name], pad), dim=1)
    found, expected = ([p for p in model.predict_step(b, 0)] for b in (longer, batch))
    assert json.loads(json.dumps(found)) == approximately(expected)


def approximately(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: approximately(item) for key, item in value.items()}
    if isinstance(value, list):
        return [approximately(item) for item in value]
    return pytest.approx(value, abs=1e-5) if isinstance(value, float) else value


def test_the_rates_of_encoder_and_head_and_their_fall(tmp_path: Path) -> None:
    model = model_of("classification", learning_rate=1e-3, head_learning_rate=1e-2, warmup=0.25)
    seen: list[list[float]] = []
    step = model.training_step

    def noted(*given: Any) -> Any:
        seen.append([group["lr"] for group in model.optimizers().param_groups])  # type: ignore[union-attr]
        return step(*given)

    model.training_step = noted  # type: ignore[method-assign]
    trainer(max_epochs=4).fit(model, datamodule=TaskData(eight("classification")))
    factors = [1 / 2, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert [rates[0] for rates in seen] == pytest.approx([1e-3 * f for f in factors])
    assert [rates[2] for rates in seen] == pytest.approx([1e-2 * f for f in factors])
    groups = model.configure_optimizers()["optimizer"].param_groups
    head = {id(p) for p in model.classifier.parameters()}  # type: ignore[union-attr]
    for group in groups:
        assert len({id(p) in head for p in group["params"]}) == 1
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_a_falling_rate_needs_an_end() -> None:
    with pytest.raises(ValueError, match="the learning rate follows the length of the run"):
        trainer(max_epochs=-1).fit(
            model_of("classification"), datamodule=TaskData(eight("classification"))
        )


def test_a_checkpoint_loads_without_the_pretrained_folder(tmp_path: Path) -> None:
    folder = tmp_path / "pretrained"
    config = EncoderConfig(
        vocabulary_size=50, layers=1, heads=2, width=16, positions=30, pattern="longformer",
        global_projections=True,
    )  # fmt: skip
    save_encoder(Encoder(config), folder)
    settings = EncoderSettings(path=str(folder))
    model = model_of("candidate-choice", encoder=settings)
    data = TaskData(eight("candidate-choice"))
    run = trainer(max_steps=3)
    run.fit(model, datamodule=data)
    run.save_checkpoint(file := tmp_path / "model.ckpt")
    assert set(torch.load(file, weights_only=True)["hyper_parameters"]["encoder"]) >= {"path"}
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    expected = model.eval().predict_step(data.batches[0], 0)
    loaded = type(model).load_from_checkpoint(file, map_location="cpu").eval()
    assert loaded.predict_step(data.batches[0], 0) == expected
    # And through a trainer, from the settings that named the folder.
    again = model_of("candidate-choice", encoder=settings)
    (found,) = trainer().test(again, datamodule=data, ckpt_path=str(file), verbose=False)
    assert again.eval().predict_step(data.batches[0], 0) == expected
    assert math.isfinite(found["test/loss"])
    fresh = model_of("candidate-choice", encoder=settings)
    with pytest.raises(FileNotFoundError, match="pretrained: no such file or folder"):
        trainer(max_steps=1).fit(fresh, datamodule=data)


def test_the_loss_is_the_mean_over_the_examples_of_all_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two processes with three and one known labels have the gradient of one with four."""
    model = model_of("classification")
    (batch, *_) = eight("classification")
    parts = []
    for known in ([0, 1, 2], [3]):
        labels = torch.full((4,), -1)
        labels[known] = batch["labels"][known]
        parts.append({**batch, "labels": labels})
    model.log = lambda *given, **options: None  # type: ignore[method-assign]

    def gradient(made: list[dict[str, Any]]) -> list[torch.Tensor]:
        model.zero_grad()
        # Processes average their gradients.
        (sum(model.training_step(one, 0) for one in made) / len(made)).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    together = gradient([batch])
    monkeypatch.setattr("lit_modules.task.world_size", lambda: 2)
    monkeypatch.setattr(
        "lit_modules.task.sum_over_processes", lambda sums: torch.stack((sums[0], sums[1] * 0 + 4))
    )
    torch.testing.assert_close(gradient(parts), together)


def test_a_batch_that_only_fills_up_is_not_scored() -> None:
    model, (batch, *_) = model_of("classification"), eight("classification")
    data = TaskData([batch])
    alone = figures_of(model, data)
    data.batches.append({**batch, "labels": batch["labels"].flip(0), "filler": True})
    assert figures_of(model, data) == alone
    assert model.predict_step(data.batches[1], 0) == []


def test_marks_that_the_pattern_does_not_read_are_told() -> None:
    local = EncoderSettings(layers=1, heads=2, width=32, pattern={"window": {"around": 8}})
    model = model_of("classification", encoder=local)
    (batch, *_) = eight("classification")
    with pytest.warns(UserWarning, match="marks global tokens, but the pattern has no BatchGlobal"):
        model(batch)
    full = model_of("classification", encoder=EncoderSettings(layers=1, heads=2, width=32))
    full(batch)


def test_stages_decide_the_rate_where_there_are_some() -> None:
    class Staged(TaskData):
        def set_stage(self, **given: Any) -> None:
            self.given = given

    model = model_of("classification", learning_rate=1.0, warmup=0.5)
    stages = Stages([Stage(steps=2, sequence_length=24, learning_rate_scale=0.25)], warmup=0.0)
    run = trainer(callbacks=[stages], max_epochs=-1)
    run.fit(model, datamodule=Staged(eight("classification")))
    assert run.optimizers[0].param_groups[0]["lr"] == 0.25


def test_hyper_parameters_are_plain() -> None:
    model = Classification(**{**COMMON, "encoder": ENCODER, "classes": 3})
    assert model.hparams["vocabulary_size"] == VOCABULARY
    assert json.loads(json.dumps(dict(model.hparams)))["encoder"]["window"] == 8


def test_figures_of_all_processes_are_logged_without_a_warning() -> None:
    """Lightning warns of what is logged in a process group and not said to be of all processes."""
    model, data = model_of("classification"), TaskData(eight("classification"))
    alone = figures_of(model, data)
    try:
        together = trainer(strategy="ddp", devices=1).test(model, datamodule=data, verbose=False)
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()
    assert [dict(figures) for figures in together] == [alone]


def with_singletons(seed: int) -> Made:
    """A document in which two mentions refer to nothing."""
    batch = coreference(seed)
    lone = torch.tensor([[10, 10], [18, 18]])
    batch["mentions"] = torch.cat((batch["mentions"], lone))
    batch["clusters"] = torch.cat((batch["clusters"], torch.tensor([7, 8])))
    return batch


@pytest.mark.parametrize("singletons", [False, True])
def test_coreference_is_scored_on_what_the_model_can_say(
    singletons: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Coreference(
        genres=3, ranking=SMALL, mention_weight=1.0, singletons=singletons, **COMMON
    )
    monkeypatch.setattr(model, "forward", ranking_of)
    figures = figures_of(model, TaskData([with_singletons(seed) for seed in range(3)]))
    assert figures["test/average_f1"] == 1.0
    assert figures.get("test/gold_singletons_left_out") == (None if singletons else 6)


def test_singletons_need_the_loss_of_mentions() -> None:
    with pytest.raises(ValueError, match="singletons needs mention_weight > 0, got 0"):
        Coreference(ranking=SMALL, singletons=True, **COMMON)


def test_a_predicted_answer_is_within_one_paragraph(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("multihop-qa")
    batch = BATCHES["multihop-qa"](0)
    first, second = batch["paragraph_positions"][0].tolist()[:2]
    text = batch["context_mask"][0].nonzero().flatten().tolist()
    before = [token for token in text if token < second][-1]
    after = next(token for token in text if token > second)
    assert first < before
    scores = knows("multihop-qa", batch)
    scores.spans.starts[0], scores.spans.ends[0] = -50.0, -50.0
    scores.spans.starts[0, before], scores.spans.ends[0, after] = 50.0, 50.0
    # The best within one paragraph, to be found in place of the two tokens that cross.
    scores.spans.starts[0, after], scores.spans.ends[0, before] = 20.0, 10.0
    scores.types[0] = torch.tensor([50.0, 0.0, 0.0])
    offsets, whole = batch["offsets"][0], batch["texts"][0]
    (answer, *_) = [found["answer"] for found in model.decode(scores, batch)]
    assert answer == whole[int(offsets[after, 0]) : int(offsets[after, 1])]


def test_a_question_without_context_gets_no_answer() -> None:
    model = model_of("multihop-qa")
    batch = BATCHES["multihop-qa"](0)
    batch["context_mask"][0] = False
    batch["answer_starts"][0] = batch["answer_ends"][0] = -1
    for name in ("sentence_positions", "paragraph_positions", "sentence_paragraph"):
        batch[name] = batch[name].clone()
        batch[name][0] = -1
    batch["facts"][0] = []
    # The type of the answer alone would say "no", which is right.
    scores = knows("multihop-qa", batch)
    (found, *_) = model.decode(scores, batch)
    assert (found["answer"], found["supporting_facts"], found["paragraphs"]) == ("", [], [])
    metrics = model.build_metrics()
    model.update_metrics(metrics, scores, model.decode(scores, batch), batch)
    figures = metrics["hotpot"].compute()
    assert figures["answer_exact_match"] == figures["support_f1"] == 0.75
