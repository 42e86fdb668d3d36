"""What tests of small modules start from."""

from typing import Any

import pytest
import torch


@pytest.fixture
def float64_in_one_thread() -> Any:
    """On sizes like these threads wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(threads)
