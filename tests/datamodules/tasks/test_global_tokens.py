"""Rules for global tokens: by name, on real records, and of one's own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from datamodules import TriviaQA, WikiHop
from datamodules.tasks import global_tokens
from datamodules.tasks.rows import Role


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", set()),
        ("first", {Role.FIRST}),
        ("question", {Role.FIRST, Role.QUESTION}),
        ("question-and-candidates", {Role.FIRST, Role.QUESTION, Role.CANDIDATE}),
        (
            "question-titles-and-sentences",
            {Role.FIRST, Role.QUESTION, Role.TITLE_MARK, Role.SENTENCE_MARK},
        ),
    ],
)
def test_a_rule_chooses_by_role(name: str, expected: set[Role]) -> None:
    roles = torch.tensor(list(Role))
    chosen = global_tokens.get(name)(roles)
    assert chosen.dtype == torch.bool
    assert set(roles[chosen].tolist()) == {int(role) for role in expected}
    assert global_tokens.describe(name).summary


def test_an_unknown_rule_is_refused_with_a_suggestion() -> None:
    with pytest.raises(
        ValueError, match=r"unknown global-token rule 'frist'\. Did you mean 'first'"
    ):
        WikiHop(global_tokens="frist")
    with pytest.raises(ValueError, match="global_tokens needs a name"):
        WikiHop(global_tokens={"every": 2})


@pytest.fixture
def every() -> str:
    """Registers a rule with a field for the time of a test."""
    name = "every-few"

    @global_tokens.register(name)
    def every_few(every: int = 4) -> Callable[[torch.Tensor], torch.Tensor]:
        """Each token whose place is a multiple of `every`."""
        return lambda roles: torch.arange(len(roles)) % every == 0

    return name


def test_a_rule_of_ones_own_with_a_field(sample: Path, every: str) -> None:
    data = WikiHop(
        val=str(sample / "wikihop-sample.json"),
        max_length=512,
        global_tokens={"name": every, "every": 7},
    )
    batch = next(iter(data.val_dataloader()))
    positions = torch.arange(batch["input_ids"].shape[1])
    assert torch.equal(batch["global_mask"], (positions % 7 == 0) & batch["key_mask"])


@pytest.mark.parametrize("rule", ["question-and-candidates", "question", "first", "none"])
def test_rules_on_the_real_questions_of_wikihop(sample: Path, rule: str) -> None:
    data = WikiHop(
        val=str(sample / "wikihop-sample.json"), max_length=700, batch_size=2, global_tokens=rule
    )
    batch = next(iter(data.val_dataloader()))
    mark = data.tokenizer.mark_id
    for row, example in enumerate(batch["example"]):
        ids = batch["input_ids"][row].tolist()
        count = len(batch["candidates"][example])
        ends = {
            "none": 0,
            "first": 1,
            "question": ids.index(mark("[/question]")) + 1,
            # The candidates are all that is before the first document.
            "question-and-candidates": ids.index(data.tokenizer.separator_id),
        }
        assert ids.count(mark("[ent]")) == ids.count(mark("[/ent]")) == count
        expected = torch.arange(len(ids)) < ends[rule]
        if row and batch["example"][row - 1] == example and rule == "question-and-candidates":
            # A later chunk may begin in the middle of a document.
            last = max(i for i, token in enumerate(ids) if token == mark("[/ent]"))
            expected = torch.arange(len(ids)) <= last
        assert torch.equal(batch["global_mask"][row], expected)


def test_the_question_is_global_in_the_real_questions_of_triviaqa(sample: Path) -> None:
    data = TriviaQA(path=str(sample / "triviaqa-sample.tgz"), max_length=512, long="chunks")
    batch = next(iter(data.val_dataloader()))
    assert len(batch["input_ids"]) > len(batch["ids"]), "documents are several rows"
    for ids, mask in zip(batch["input_ids"].tolist(), batch["global_mask"], strict=True):
        end = ids.index(data.tokenizer.separator_id)
        assert end > 5
        assert torch.equal(mask, torch.arange(len(ids)) < end)
