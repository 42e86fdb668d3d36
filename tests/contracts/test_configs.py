"""Every configuration that is shipped parses, builds its model and data, and trains a step."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import sparse_patterns as sp
from lit_modules.cli import main
from lit_modules.commands.configs.shipped import names, shipped_path
from lit_modules.language_model import LanguageModel
from lit_modules.nn.encoder.encoder import Encoder, EncoderConfig
from lit_modules.nn.encoder.masked_lm import MaskedLM
from lit_modules.nn.patterns import causal
from lit_modules.pretrained.backbone import EncoderSettings
from lit_modules.training.stages import Doubling, Stage, StageTable
from lit_modules.weights import save_masked_lm

LM = [shipped_path(name) for name in names("lm/")]
MLM = [shipped_path(name) for name in names("mlm/")]
PATTERNS = [shipped_path(name) for name in names("patterns/")]

# One of each kind trains every day, the others with what is `long`.
TRAINED = ("stdlib", "text8-small", "transformer-xl-tiny", "enwik8-large-tiny")
TRAINED += ("ablation-dilated-tiny", "tiny", "minilm-long-tiny")

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


def trained(files: list[Path]) -> list[Any]:
    return [
        pytest.param(file, id=file.stem, marks=() if file.stem in TRAINED else pytest.mark.long)
        for file in files
    ]


def read(file: Path) -> dict:
    content = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(content, dict)
    return content


def table_of(file: Path) -> StageTable:
    content = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    stages = dict(content["stages"])  # type: ignore[index, call-overload]
    rows = tuple(Stage(**row) for row in stages.pop("table", []))
    if "doubling" in stages:
        rows = Doubling(**stages.pop("doubling")).rows()
    return StageTable(rows, **stages)


def test_there_are_configurations() -> None:
    assert len(LM) >= 19
    assert len(MLM) >= 5
    assert len(PATTERNS) >= 4
    assert {file.stem for file in (*LM, *MLM)} >= set(TRAINED)


@pytest.mark.filterwarnings("ignore:.*figures cannot be compared.*")
@pytest.mark.parametrize("file", trained(LM))
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
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    if file.stem.endswith("-tiny") or file.stem == "stdlib":
        assert millions < 2
    else:
        # The papers count 41 and 102; Longformer has position embeddings and biases besides.
        paper = 102 if "large" in file.stem else 41
        assert 0.9 * paper < millions < paper + 0.1


@pytest.mark.parametrize("file", LM, ids=lambda file: file.stem)
def test_the_stages_are_as_long_as_the_paper_or_minutes(file: Path) -> None:
    table = table_of(file)
    if file.stem.endswith("-tiny") or file.stem == "stdlib":
        assert table.tokens < 5_000_000
        return
    lengths = [stage.sequence_length for stage in table.stages]
    if file.stem == "transformer-xl":
        assert (lengths, table.steps, table.stages[0].batch_size) == ([512], 400_000, 22)
        return
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


def weights_for(folder: Path) -> None:
    """Saves narrow weights of 512 positions, and a vocabulary, in place of those of the user."""
    config = EncoderConfig(262, layers=2, heads=2, width=8, positions=514, pad_id=1)
    save_masked_lm(MaskedLM(Encoder(config)), folder)
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *map(chr, range(0x61, 0x7B))]
    vocabulary = {word: number for number, word in enumerate(words)}
    vocabulary |= {f"filler{number}": number for number in range(len(words), 262)}
    (folder / "tokenizer.json").write_text(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [
                    dict(id=n, content=w, special=True, single_word=False, lstrip=False)
                    | dict(rstrip=False, normalized=False)
                    for n, w in enumerate(words[:5])
                ],
                "pre_tokenizer": {"type": "Whitespace"},
                "model": {"type": "WordPiece", "unk_token": "<unk>", "vocab": vocabulary}
                | {"continuing_subword_prefix": "", "max_input_chars_per_word": 100},
            }
        )
    )


@pytest.mark.parametrize("file", trained(MLM))
def test_a_masked_language_model_trains_a_step(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    Path("text").mkdir()
    for name in "abc":
        Path("text", name).write_text("".join(random.choices("abcdefgh ", k=20_000)))
    content = read(file)
    words = ["--data.cache_dir=cache"]
    path = content["model"]["encoder"].get("path")
    if path is not None:
        weights_for(tmp_path / path)
    short = "[{steps: 1, sequence_length: 64, batch_size: 1}]"
    status = main(["fit", "--config", str(file), *words, "--stages.table", short, *ONE_STEP])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    if path is not None:
        length = content["model"]["encoder"]["max_length"]
        assert f"512 made {length}" in printed.out
        assert "head       loaded" in printed.out


@pytest.mark.parametrize("file", MLM, ids=lambda file: file.stem)
def test_the_schedule_of_masked_language_models(file: Path) -> None:
    table = table_of(file)
    content = read(file)
    if not file.stem.startswith("longformer"):
        assert sum(s.steps * s.batch_size for s in table.stages) * 1024 < 5_000_000
        return
    [stage] = table.stages
    assert stage.batch_size * stage.accumulation * 4096 == 2**18
    assert (table.steps, content["data"]["sequence_length"]) == (65_000, 4096)
    rates = [table.learning_rate_factor(step) for step in (249, 499, 500, 32_750, 65_000)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.125, 0.0])
    assert content["model"]["learning_rate"] == 3e-5
    EncoderSettings.of(content["model"]["encoder"])
