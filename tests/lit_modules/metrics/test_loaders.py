"""Several data loaders of one part: the figures of each are those of that loader alone."""

from typing import Any

import pytest
from torch.utils.data import DataLoader

from tests.lit_modules.modules.kinds import batches, make, trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


def loader(made: list[Any]) -> DataLoader[Any]:
    return DataLoader(made, batch_size=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["language", "classification"])
def test_each_loader_has_figures_of_its_own(kind: str) -> None:
    model, (first, *others) = make(kind), list(batches(kind))
    both = [loader([first]), loader(others)]
    alone = [dict(trainer().validate(model, one, verbose=False)[0]) for one in both]
    assert alone[0]["val/loss"] != alone[1]["val/loss"]
    for name, run in (("val", trainer().validate), ("test", trainer().test)):
        (one, two) = run(model, both, verbose=False)
        wanted: list[dict[str, float]] = [
            {f"{key.replace('val/', name + '/')}/dataloader_idx_{at}": x for key, x in each.items()}
            for at, each in enumerate(alone)
        ]
        assert dict(one) | dict(two) == pytest.approx(wanted[0] | wanted[1])
    # One loader again, under the plain names; and while training.
    assert dict(trainer().validate(model, both[1], verbose=False)[0]) == pytest.approx(alone[1])
    fitted = trainer(max_epochs=1)
    fitted.fit(model.train(), loader([first, *others]), both)
    assert {"val/loss/dataloader_idx_0", "val/loss/dataloader_idx_1"} <= {*fitted.callback_metrics}
    found = trainer().predict(model, both)
    assert found is not None
    assert [len(each) for each in found] == [1, len(others)]
