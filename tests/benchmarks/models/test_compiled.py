"""The compiled step trains as the uncompiled one does."""

import pytest
import torch

from benchmarks.models import compiled

SMALL = {"hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 2}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_both_steps_train_alike() -> None:
    one, other = compiled.steps(40, num_hidden_layers=2, **SMALL)
    losses = [(float(one()), float(other())) for _ in range(3)]
    assert losses[0][0] != losses[2][0]
    torch.testing.assert_close(*map(torch.tensor, zip(*losses, strict=True)), rtol=1e-5, atol=1e-5)
