"""A model is given what its class says it takes from the data set, and nothing else."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lit_modules.cli import main
from lit_modules.commands.links import FromDataError, model_path, names_from_data, taken
from lit_modules.commands.short_names import MODELS
from sparse_patterns.registry import Registry

DATA: Registry[SimpleNamespace] = Registry("data set", "sparse_patterns.no_such_group")
LANGUAGE_MODEL = MODELS["language-model"]


class Declares:
    from_data = ("pad_id",)

    def __init__(self, pad_id: int, unit: str = "word") -> None:
        self.pad_id = pad_id


class Silent:
    def __init__(self, unit: str = "byte", width: int = 8) -> None:
        self.unit = unit


def test_the_model_that_is_named_last_is_found(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("model: {name: language-model, width: 8}")
    empty = tmp_path / "b.yaml"
    empty.write_text("data: text8")

    def found(*words: str) -> str:
        return model_path(words, DATA, "a.Default")

    assert found() == "a.Default"
    assert found("--model") == ""
    assert found("--model=b.C") == found("--model", "b.C") == found("--model.class_path", "b.C")
    assert found("--config", str(file)) == LANGUAGE_MODEL
    assert found("--model", "b.C", "--config", str(file)) == LANGUAGE_MODEL
    assert found("--config", str(file), "--model", "b.C") == "b.C"
    assert found("--model", "b.C", "--config", str(empty)) == "b.C"
    assert found("--config={model: b.C}") == "b.C"
    # What is wrong with a file is the parser's to say.
    assert found("--config", "none.yaml") == found("--config", "{") == "a.Default"


def test_names_are_declared_or_the_usual_ones() -> None:
    assert names_from_data(f"{__name__}.Declares")[1] == ("pad_id",)
    assert names_from_data(f"{__name__}.Silent") == (Silent, ("unit",))
    assert names_from_data(LANGUAGE_MODEL)[1] == ("vocabulary_size", "unit")
    assert names_from_data("no.Such") == names_from_data("") == (None, ())


def test_what_is_missing_is_named() -> None:
    assert taken("pad_id", Declares)(SimpleNamespace(pad_id=0)) == 0
    message = "Declares takes 'pad_id' from its data set, which SimpleNamespace does not have"
    with pytest.raises(FromDataError, match=message):
        taken("pad_id", Declares)(SimpleNamespace())


class Broken:
    @property
    def pad_id(self) -> int:
        raise FileNotFoundError("there is no tokenizer")


def test_what_goes_wrong_in_a_data_set_is_found_in_the_context_of_errors_of_the_parser() -> None:
    with pytest.raises(FromDataError) as raised:
        taken("pad_id", Declares)(Broken())
    outer = RuntimeError("a link has failed")
    outer.__context__ = raised.value
    assert isinstance(FromDataError.in_context_of(outer), FileNotFoundError)
    assert FromDataError.in_context_of(ValueError()) is None


MODULE = """
import torch
from lightning.pytorch import LightningModule
from datamodules import Recall, register

class Classes(LightningModule):
    from_data = ("vocabulary_size", "classes")

    def __init__(self, vocabulary_size: int, classes: int, unit: str = "token"):
        super().__init__()
        assert (vocabulary_size, classes, unit) == (24, 5, "mine")
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        return self.weight

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

@register("with-classes")
class WithClasses(Recall):
    classes = 5

    def __init__(self):
        super().__init__(distance=4, train_batches=1, eval_batches=1)
"""


def test_the_command_line_hands_over_what_is_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    Path("my_classes.py").write_text(MODULE)
    Path("mine.yaml").write_text("model: {class_path: my_classes.Classes, unit: mine}\n")
    words = ["fit", "--import", "my_classes", "--config", "mine.yaml", "--data"]
    quick = [
        "--trainer.fast_dev_run=1",
        "--trainer.accelerator=cpu",
        "--run.test=false",
    ]
    assert main([*words, "with-classes", *quick]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main([*words, "recall", *quick]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "sparse-patterns: error: Classes takes 'classes' from its data set, which Recall does not "
        "have: choose another data set or model"
    ]
