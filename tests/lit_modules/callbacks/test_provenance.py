"""The data set of a model in its checkpoint."""

import io
from typing import Any, cast

import torch

from lit_modules.callbacks.provenance import KEY, Provenance


def test_a_checkpoint_gets_the_data_set_as_plain_data_and_keeps_the_rest() -> None:
    data = {"class_path": "my.Data", "init_args": {"sequence_length": 8}}
    checkpoint: dict[str, Any] = {"global_step": 3}
    nothing = cast(Any, None)
    Provenance(data).on_save_checkpoint(nothing, nothing, checkpoint)
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    # Only plain data loads with `weights_only`.
    assert torch.load(file, weights_only=True) == {"global_step": 3, KEY: data}


def test_the_key_is_that_of_existing_checkpoints() -> None:
    assert KEY == "sparse_patterns_data"
