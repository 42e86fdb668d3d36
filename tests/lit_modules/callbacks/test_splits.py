"""What a data set lacks is refused, and data sets that cannot tell are left alone."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from lit_modules.callbacks.splits import Splits, has_batches


class Data:
    """Has the parts that are named."""

    def __init__(self, *parts: str) -> None:
        self.parts = parts

    def has_batches(self, part: str) -> bool:
        return part in self.parts


def set_up(data: Any, stage: str, limit: float = 1.0) -> Any:
    trainer = cast(Any, SimpleNamespace(datamodule=data, limit_val_batches=limit))
    Splits().setup(trainer, cast(Any, None), stage)
    return trainer.limit_val_batches


def test_training_validates_where_there_is_something() -> None:
    assert set_up(Data("val"), "fit") == 1.0
    assert set_up(Data("val"), "fit", 5) == 5
    assert set_up(Data("test"), "fit") == 0


@pytest.mark.parametrize(
    ("stage", "parts", "message"),
    [
        ("test", (), "Data has no test split to test on; it has train. Give the files"),
        (TrainerFn.TESTING, ("val",), "Data has no test split to test on; it has train and val."),
        (
            "validate",
            ("test",),
            r"no val split to validate on; it has train and test.*val_fraction",
        ),
        ("predict", (), "neither a test nor a validation split to predict on, only train"),
    ],
)
def test_what_is_not_there_is_refused(stage: str, parts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        set_up(Data(*parts), stage)


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_a_data_set_that_cannot_tell_passes(stage: str) -> None:
    assert set_up(object(), stage) == 1.0
    assert has_batches(object(), "val")
    set_up(Data("val", "test", "predict"), stage)
