"""Every configuration that is shipped parses, builds its model and data, and trains a step."""

import random
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import sparse_patterns as sp
from lit_modules.cli import main
from lit_modules.language_model import LanguageModel
from lit_modules.nn.encoder import Encoder, EncoderConfig
from lit_modules.nn.patterns import causal
from lit_modules.stages import Doubling, Stage, StageTable
from lit_modules.weights import save_encoder
from tests.lit_modules.task_files import WORDS, files_of

ROOT = Path(__file__).parents[2]
LM = sorted((ROOT / "configs" / "lm").glob("*.yaml"))
PATTERNS = sorted((ROOT / "configs" / "patterns").glob("*.yaml"))
TASKS = sorted((ROOT / "configs" / "tasks").glob("*.yaml"))
PRETRAINED = [file for file in TASKS if "path" in OmegaConf.load(file).model.encoder]

# Short sequences of the real model: what a file says about stages is looked at without training.
SHORT = {
    "doubling": ["--stages.doubling.sequence_length=32", "--stages.doubling.batch_size=1"],
    "table": ["--stages.table", "[{steps: 1, sequence_length: 32, batch_size: 1}]"],
}
ONE_STEP = [
    *("--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.logger=false"),
    *("--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false"),
    *("--trainer.accelerator=cpu", "--trainer.precision=32-true"),
    *("--run.pictures=false", "--run.test=false"),
]


def read(file: Path) -> dict:
    content = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(content, dict)
    return content


def table_of(file: Path) -> StageTable:
    stages = dict(read(file)["stages"])
    rows = tuple(Stage(**row) for row in stages.pop("table", []))
    if "doubling" in stages:
        rows = Doubling(**stages.pop("doubling")).rows()
    return StageTable(rows, **stages)


def test_there_are_configurations() -> None:
    assert len(LM) >= 17
    assert len(PATTERNS) >= 4
    assert len(TASKS) >= 16
    assert len(PRETRAINED) == 7


@pytest.mark.filterwarnings("ignore:.*figures cannot be compared.*")
@pytest.mark.parametrize("file", LM, ids=lambda file: file.stem)
def test_a_language_model_trains_a_step(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = read(file)
    words = ["--data.cache_dir=cache"]
    if config["data"]["name"] in ("text8", "enwik8"):
        # In place of the official file, which nobody can ship.
        Path("corpus").write_text("".join(random.choices("abcdefgh ", k=20_000)))
        words += ["--data.path=corpus", "--data.split=proportional"]
        # Every layer and head, but narrow ones: the full width is built below, without its memory.
        words += ["--model.width=64", "--model.feedforward_width=64"]
    else:
        # Few files, of which every split needs one.
        words += ["--data.max_bytes=100000", "--data.val_fraction=0.2", "--data.test_fraction=0.2"]
    short = SHORT["doubling" if "doubling" in config["stages"] else "table"]
    status = main(["fit", "--config", str(file), *words, *short, *ONE_STEP])
    assert status == 0, capsys.readouterr().err


@pytest.mark.parametrize("file", LM, ids=lambda file: file.stem)
def test_the_model_is_as_large_as_the_paper_or_small(file: Path) -> None:
    config = read(file)
    vocabulary = 27 if config["data"]["name"] == "text8" else 256
    with torch.device("meta"):
        model = LanguageModel(vocabulary, **config["model"])
        model.configure_model()
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    if file.stem.endswith("-tiny") or file.stem == "stdlib":
        assert millions < 2
    else:
        # The paper counts 41 and 102: it has relative position embeddings and biases besides.
        paper = 102 if "large" in file.stem else 41
        assert 0.9 * paper < millions <= paper


@pytest.mark.parametrize("file", LM, ids=lambda file: file.stem)
def test_the_stages_are_as_long_as_the_paper_or_minutes(file: Path) -> None:
    table = table_of(file)
    if file.stem.endswith("-tiny") or file.stem == "stdlib":
        assert table.tokens < 5_000_000
        return
    lengths = [stage.sequence_length for stage in table.stages]
    assert lengths == [2048, 4096, 8192, 16384, 23040][: len(lengths)]
    totals = {"small": 570_000, "large": 395_000, "ablation": 150_000}
    assert table.steps == next(n for word, n in totals.items() if word in file.stem)


@pytest.mark.parametrize("file", LM, ids=lambda file: file.stem)
def test_windows_and_dilation_fit_the_layers(file: Path) -> None:
    model = read(file)["model"]
    pattern = sp.from_config(model["pattern"])
    heads, layers = model["heads"], model["layers"]
    for layer in range(layers):
        mask = sp.dense_mask(pattern, 64, heads=heads, layer=layer, layers=layers)
        assert mask.shape == (heads, 64, 64)
        assert not mask.triu(1).any()


@pytest.mark.parametrize("file", PATTERNS, ids=lambda file: file.stem)
def test_a_pattern_is_one(file: Path) -> None:
    pattern = causal(sp.from_config(read(file)))
    mask = sp.dense_mask(pattern, 300, heads=8, layer=11, layers=12)
    assert mask.any(-1).all()
    assert not mask.triu(1).any()
    assert not mask.all()


def test_the_ablation_of_the_paper_sees_as_many_keys_in_each_arm() -> None:
    seen = {}
    for file in LM:
        if file.stem.startswith("ablation"):
            model = read(file)["model"]
            pattern = sp.from_config(model["pattern"])
            layers = model["layers"]
            total = sum(
                int(sp.dense_mask(pattern, 1100, heads=1, layer=n, layers=layers)[0, -1].sum()) - 1
                for n in range(layers)
            )
            seen[file.stem] = total / layers
    tiny = {name: mean for name, mean in seen.items() if name.endswith("-tiny")}
    paper = {name: mean for name, mean in seen.items() if name not in tiny}
    assert len(tiny) == len(paper) == 4
    assert max(paper.values()) - min(paper.values()) <= 1
    assert max(tiny.values()) - min(tiny.values()) <= 1


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


@pytest.mark.parametrize("file", TASKS, ids=lambda file: file.stem)
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
