"""Windows become padded batches with shifted labels."""

import torch

from datamodules.language_model.batch import IGNORE, Window, collate


def test_labels_are_shifted_and_the_rest_is_not_scored() -> None:
    batch = collate([Window(torch.arange(5), 4), Window(torch.arange(10, 13), 1)], 4)
    assert batch["input_ids"].tolist() == [[0, 1, 2, 3], [10, 11, 0, 0]]
    assert batch["labels"].tolist() == [[1, 2, 3, 4], [IGNORE, 12, IGNORE, IGNORE]]
    assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64
    assert "units_scored" not in batch
    assert "continues" not in batch
    assert "restarts" not in batch
    assert "filler" not in batch


def test_units_count_scored_labels_only() -> None:
    units = torch.tensor([100, 10, 1, 5])
    windows = [Window(torch.arange(4), 2, units), Window(torch.empty(0).long(), 0)]
    batch = collate(windows, 3, fills=True)
    assert batch["units_scored"].tolist() == [6, 0]
    assert batch["labels"][1].tolist() == [IGNORE] * 3
    assert batch["filler"].tolist() == [False, True]


def test_a_row_continues_unless_a_document_begins() -> None:
    window = Window(torch.arange(3), 2)
    begins = window._replace(restarts=torch.tensor([True, False]))
    batch = collate(
        [window, begins, window._replace(restarts=torch.tensor([False, True]))], 3, True
    )
    assert batch["continues"].tolist() == [True, False, True]
    assert batch["restarts"].int().tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    first = collate([window, begins], 2, continues=False)
    assert first["continues"].tolist() == [False, False]
