import torch

from lit_modules.nn.rows import at_positions, logsumexp_by_example, mean_by_example

EXAMPLE = torch.tensor([0, 1, 1, 3])


def test_the_mean_is_over_the_rows_of_an_example_that_count() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 8.0], [7.0, 9.0]])
    expected = torch.tensor([[1.0, 2.0], [4.0, 6.0], [0.0, 0.0], [7.0, 9.0]])
    torch.testing.assert_close(mean_by_example(values, EXAMPLE, 4), expected)
    mask = torch.tensor([[True, True], [True, False], [True, True], [False, True]])
    values[1, 1] = torch.inf
    expected = torch.tensor([[1.0, 2.0], [4.0, 8.0], [0.0, 0.0], [0.0, 9.0]])
    torch.testing.assert_close(mean_by_example(values, EXAMPLE, 4, mask), expected)


def test_the_sum_of_exponentials_is_over_all_rows() -> None:
    logits = torch.randn(4, 5)
    mask = torch.rand(4, 5) < 0.5
    mask[0] = False
    found = logsumexp_by_example(logits, mask, EXAMPLE, 4)
    assert found[[0, 2]].tolist() == [-torch.inf, -torch.inf]
    both = logits[1:3][mask[1:3]].exp().sum().log()
    torch.testing.assert_close(found[1], both)
    torch.testing.assert_close(found[3], logits[3][mask[3]].exp().sum().log())


def test_padding_picks_some_token() -> None:
    hidden = torch.randn(2, 4, 3)
    found = at_positions(hidden, torch.tensor([[2, -1], [3, 0]]))
    torch.testing.assert_close(found[0, 0], hidden[0, 2])
    torch.testing.assert_close(found[1], hidden[1, [3, 0]])
