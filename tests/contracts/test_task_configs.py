"""Every configuration of a task trains a step from small files, with the numbers of the paper."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lit_modules.cli import main
from lit_modules.commands.configs.shipped import names, shipped_path
from lit_modules.nn.encoder.encoder import Encoder, EncoderConfig
from lit_modules.weights import save_encoder
from tests.contracts.test_configs import ONE_STEP, read
from tests.lit_modules.task_files import WORDS, files_of

ROOT = Path(__file__).parents[2]
TASKS = [shipped_path(name) for name in names("tasks/")]
PRETRAINED = [file for file in TASKS if "path" in OmegaConf.load(file).model.encoder]


def test_there_are_configurations() -> None:
    assert len(TASKS) >= 16
    assert len(PRETRAINED) == 7


@pytest.fixture(scope="module")
def longformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as that of a real Longformer: weights, however small, and a tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("longformer")
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *WORDS]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(tokens[:5])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = EncoderConfig(
        vocabulary_size=len(tokens), layers=1, heads=2, width=8, positions=4098,
        pattern={"name": "longformer", "window": 16}, global_projections=True,
    )  # fmt: skip
    save_encoder(Encoder(config), folder / "weights")
    for file in (folder / "weights").iterdir():
        file.rename(folder / file.name)
    return folder


def task_words(file: Path) -> list[str]:
    """What points a configuration to small files of its task."""
    name = read(file)["data"]["name"]
    if name == "far-choice":
        return ["--data.train_examples=20", "--data.eval_examples=4", "--data.distance=40"]
    own = [f"--data.{split}={path}" for split, path in files_of(name, Path("files")).items()]
    if name == "documents":
        # In place of the speeches.
        names = ["--data.label_field=label", "--data.label_names=[a,b,c]"]
        groups = [f"--data.{n}=null" for n in ("group_field", "val_groups", "test_groups")]
        return [*own, *names, *groups]
    return ["--data.path=null", *own]


# The others train the same tasks from small encoders, as tests of the command line do every day.
EVERY_DAY = [*PRETRAINED, shipped_path("tasks/far-choice")]


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, id=file.stem, marks=() if file in EVERY_DAY else pytest.mark.long)
        for file in TASKS
    ],
)
def test_a_task_trains_a_step(
    file: Path,
    longformer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--config", str(file), *task_words(file), "--data.cache_dir=cache", *ONE_STEP]
    if file in PRETRAINED:
        # The one place where the folder is named: the tokenizer follows it.
        words += [f"--model.encoder.path={longformer}", "--trainer.accumulate_grad_batches=1"]
    assert main(["fit", *words]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("file", PRETRAINED, ids=lambda file: file.stem)
def test_a_task_has_the_numbers_of_the_paper(file: Path) -> None:
    config = read(file)
    model, trainer, data = config["model"], config["trainer"], config["data"]
    if file.stem == "ontonotes":
        assert (model["learning_rate"], model["head_learning_rate"]) == (1e-5, 1e-4)
        assert data["segment_length"] == 4096
        return
    assert data["batch_size"] * trainer["accumulate_grad_batches"] == 32
    if file.stem == "squad":
        return
    assert data["max_length"] == 4096
    epochs, rate, warmup = {
        "wikihop": (15, 3e-5, 200),
        "triviaqa": (5, 3e-5, 1000),
        "hotpotqa": (5, 5e-5, 1000),
        "imdb": (15, 3e-5, 0.1),
        "hyperpartisan": (15, 3e-5, 0.1),
    }[file.stem]
    found = (trainer["max_epochs"], model["learning_rate"], model["warmup"])
    assert found == (epochs, rate, warmup)


def ablations() -> list[str]:
    """The words of each row of the table of ablations in the docs."""
    lines = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8").splitlines()
    rows = [line.split("|")[2] for line in lines if line.startswith("|") and "--trainer" in line]
    return [row.split("`")[1] for row in rows]


def test_the_ablations_are_listed() -> None:
    assert len(ablations()) == 7


@pytest.mark.parametrize(
    "words",
    # Every day: full attention, other weights, and neither projections nor tokens that are global.
    [
        pytest.param(words, marks=() if number % 2 else pytest.mark.long)
        for number, words in enumerate(ablations())
    ],
)
def test_an_ablation_trains_a_step(
    words: str,
    longformer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    file = shipped_path("tasks/wikihop")
    given = [str(longformer) if word in ("LONG", "POSITIONS") else word for word in words.split()]
    if "--model.encoder.path" not in given:
        given += ["--model.encoder.path", str(longformer)]
    fit = ["fit", "--config", str(file), *task_words(file), "--data.cache_dir=cache", *ONE_STEP]
    assert main([*fit, *given, "--trainer.accumulate_grad_batches=1"]) == 0, capsys.readouterr().err
