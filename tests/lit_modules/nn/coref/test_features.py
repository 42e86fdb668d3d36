import torch

from lit_modules.nn.coref.features import BUCKETS, buckets


def test_distances_fall_into_ten_buckets() -> None:
    firsts = [0, 1, 2, 3, 4, 5, 8, 16, 32, 64]
    lasts = [0, 1, 2, 3, 4, 7, 15, 31, 63, 10_000]
    assert buckets(torch.tensor(firsts)).tolist() == list(range(BUCKETS))
    assert buckets(torch.tensor(lasts)).tolist() == list(range(BUCKETS))
