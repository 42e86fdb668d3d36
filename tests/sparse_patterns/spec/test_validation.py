import numpy as np
import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.spec.validation import check_example_tensor, check_lengths, check_pattern

PATTERN = sp.BatchGlobal() | sp.SameDocument() & sp.Causal()


def test_check_pattern() -> None:
    assert check_pattern(PATTERN) is PATTERN
    with pytest.raises(
        TypeError, match=r"must be a Pattern, got 'bigbird'; .*sp\.get\('bigbird'\)"
    ):
        check_pattern("bigbird")
    with pytest.raises(TypeError, match=r"must be a Pattern, got None$"):
        check_pattern(None)
    with pytest.raises(TypeError, match=r"must be a Pattern, got <class .*Window'>$"):
        check_pattern(sp.Window)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((5, None, None), (5, 5, 0)),
        ((5, 8, None), (5, 8, 3)),
        ((8, 5, None), (8, 5, -3)),
        ((5, 8, 0), (5, 8, 0)),
        ((0, 0, -7), (0, 0, -7)),
    ],
)
def test_check_lengths_fills_in_the_defaults(given: tuple, expected: tuple) -> None:
    assert check_lengths(*given) == expected


def test_check_lengths_refuses_negative_ones() -> None:
    with pytest.raises(ValueError, match="q_len must be >= 0, got -1"):
        check_lengths(-1, None, None)
    with pytest.raises(ValueError, match="kv_len must be >= 0, got -3"):
        check_lengths(1, -3, None)


@pytest.mark.parametrize("name", ["key_mask", "global_mask", "segment_ids"])
def test_example_tensors_that_fit(name: str) -> None:
    dtype = torch.int32 if name == "segment_ids" else torch.bool
    for batch in (0, 1, 3):
        check_example_tensor(name, torch.zeros(batch, 4, dtype=dtype), PATTERN, 4)
    check_example_tensor(name, torch.zeros(2, 0, dtype=dtype), PATTERN, 0)


@pytest.mark.parametrize("name", ["key_mask", "global_mask", "segment_ids"])
def test_example_tensors_of_another_shape(name: str) -> None:
    dtype = torch.int32 if name == "segment_ids" else torch.bool
    for shape in ((4,), (1, 5), (1, 1, 4), ()):
        with pytest.raises(ValueError, match=rf"{name} must have shape .*\(batch, 4\), got"):
            check_example_tensor(name, torch.zeros(shape, dtype=dtype), PATTERN, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8])
@pytest.mark.parametrize("name", ["key_mask", "global_mask"])
def test_masks_of_another_type(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=rf"{name} must be bool \(True = yes\), got {dtype}"):
        check_example_tensor(name, torch.ones(1, 4, dtype=dtype), PATTERN, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_segment_ids_of_another_type(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=f"segment_ids must be integers, got {dtype}"):
        check_example_tensor("segment_ids", torch.ones(1, 4, dtype=dtype), PATTERN, 4)


@pytest.mark.parametrize(
    "value", [[[True] * 4], np.ones((1, 4), dtype=bool)], ids=["list", "numpy"]
)
def test_only_tensors_are_taken(value: object) -> None:
    with pytest.raises(TypeError, match=r"key_mask must be a tensor, got (list|ndarray)"):
        check_example_tensor("key_mask", value, PATTERN, 4)


def test_a_tensor_that_nothing_reads_is_refused() -> None:
    pattern = sp.Global((0,)) | sp.Causal()
    with pytest.raises(ValueError, match=r"global_mask was given, .*no BatchGlobal\(\).*Causal"):
        check_example_tensor("global_mask", torch.ones(1, 4).bool(), pattern, 4)
    with pytest.raises(ValueError, match=r"segment_ids was given, .*no SameDocument\(\)"):
        check_example_tensor("segment_ids", torch.ones(1, 4).int(), pattern, 4)
    check_example_tensor("key_mask", torch.ones(1, 4).bool(), pattern, 4)
