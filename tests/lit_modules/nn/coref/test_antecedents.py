import pytest
import torch

from lit_modules.nn.coref.antecedents import CoarseScorer, FineScorer, Refinement
from lit_modules.nn.coref.features import buckets

KEPT, WIDTH = 9, 6


@pytest.fixture
def spans() -> torch.Tensor:
    return torch.randn(KEPT, WIDTH)


def test_the_best_earlier_spans_are_left(spans: torch.Tensor) -> None:
    coarse = CoarseScorer(WIDTH, 4, 0.0)
    mentions = torch.randn(KEPT)
    left = coarse(spans, mentions, 3)
    for at in range(KEPT):
        scores = {}
        for other in range(at):
            distance = coarse.distances(buckets(torch.tensor(at - other)))
            score = coarse.bilinear(spans[at]) @ spans[other] + coarse.distance_score(distance)[0]
            scores[other] = float((score + mentions[at] + mentions[other]).detach())
        best = sorted(scores, key=lambda other: -scores[other])[:3]
        assert left.spans[at][left.mask[at]].tolist() == best
        assert left.scores[at][left.mask[at]].tolist() == pytest.approx(
            [scores[other] for other in best], abs=1e-5
        )
        assert left.scores[at][~left.mask[at]].eq(-torch.inf).all()


@pytest.mark.parametrize("rows", [100, 4])
def test_a_pair_is_scored_by_both_their_product_and_features(
    spans: torch.Tensor, rows: int
) -> None:
    left = CoarseScorer(WIDTH, 4, 0.0)(spans, torch.randn(KEPT), 4)
    fine = FineScorer(WIDTH, 8, 4, genres=3, dropout=0.0, rows=rows)
    speakers = torch.tensor([0, 1, 1, 2, 0, 2, 1, 1, 3])
    found = fine(spans, left, speakers, torch.tensor(2))
    for at in range(KEPT):
        for column in range(4):
            other = int(left.spans[at, column])
            if not left.mask[at, column]:
                assert found[at, column] == -torch.inf
                continue
            same = 0 if not speakers[at] or not speakers[other] else 1
            same += int(same and bool(speakers[at] == speakers[other]))
            features = (
                fine.speakers.weight[same],
                fine.genres.weight[2],
                fine.distances(buckets(torch.tensor(at - other))),
            )
            first = torch.cat(
                [m.weight for m in (fine.of_span, fine.of_antecedent, fine.of_product)]
                + [fine.of_features.weight],
                dim=1,
            )
            pair = torch.cat((spans[at], spans[other], spans[at] * spans[other], *features))
            score = fine.out(torch.relu(first @ pair + fine.of_span.bias)) + left.scores[at, column]
            torch.testing.assert_close(found[at, column], score[0])


def test_parts_give_the_same_gradient(spans: torch.Tensor) -> None:
    left = CoarseScorer(WIDTH, 4, 0.0)(spans, torch.randn(KEPT), 4)
    fine = FineScorer(WIDTH, 8, 4, genres=1, dropout=0.0, rows=100)
    gradients = []
    for rows in (100, 2):
        fine.rows = rows
        inputs = spans.clone().requires_grad_()
        found = fine(inputs, left, torch.zeros(KEPT, dtype=torch.int64), torch.tensor(0))
        found[left.mask].square().sum().backward(retain_graph=True)
        gradients.append(inputs.grad)
    torch.testing.assert_close(*gradients)


def test_a_span_takes_over_from_its_expected_antecedent(spans: torch.Tensor) -> None:
    left = CoarseScorer(WIDTH, 4, 0.0)(spans, torch.randn(KEPT), 4)
    refinement = Refinement(WIDTH)
    found = refinement(spans, left, left.scores)
    for at in range(KEPT):
        real = left.mask[at]
        shares = torch.cat((torch.zeros(1), left.scores[at][real])).softmax(0)
        expected = shares @ torch.cat((spans[at : at + 1], spans[left.spans[at][real]]))
        gate = torch.sigmoid(refinement.gate(torch.cat((spans[at], expected))))
        torch.testing.assert_close(found[at], gate * spans[at] + (1 - gate) * expected)
