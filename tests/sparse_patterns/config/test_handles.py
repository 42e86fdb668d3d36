"""Patterns as strings: bounded, also for rules, and safe to use from several threads."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.config import handles as module
from tests.children import run_program


def test_a_string_names_a_pattern() -> None:
    pattern = sp.Window(3, 1) | sp.Global((0,))
    assert module.look_up(module.intern(pattern)) == pattern
    rule = sp.Rule(lambda q, k, head: q >= k)
    assert module.intern(rule) == module.intern(rule)
    assert module.look_up(module.intern(rule)) is rule


def test_a_rule_of_another_process_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"'rule-x' holds a Rule .*: it is known only to the process"
    ):
        module.look_up("rule-x")


def test_rules_made_anew_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 4)
    used = module.intern(sp.Window(77, 0))
    old = module.intern(sp.Rule(lambda q, k, head: q == k))
    for _ in range(6):
        module.intern(sp.Rule(lambda q, k, head: q >= k))
        module.look_up(used)
    assert module.look_up(used) == sp.Window(77, 0)
    with pytest.raises(ValueError, match="fewer than 4 other patterns"):
        module.look_up(old)


def test_threads_do_not_lose_each_others_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 2)

    def use(width: int) -> bool:
        pattern = sp.Window(width, 0)
        return all(module.look_up(module.intern(pattern)) == pattern for _ in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(8)))


RULES = """
import torch

def past(q, k, head):
    return q >= k

def near(q, k, head):
    return abs(q - k) < 2
"""

LOADED = """
import sys, torch
import sparse_patterns as sp
import rules_of_a_user as rules

x = torch.eye(8).expand(1, 1, 8, 8)
for other in (rules.near, lambda q, k, head: q <= k):
    sp.attention(x, x, x, sp.Rule(other))
program = torch.export.load(sys.argv[1]).module()
expected = sp.attention(x, x, x, sp.Rule(rules.past))
assert float((expected - sp.attention(x, x, x, sp.Rule(rules.near))).abs().max()) > 0.1
assert torch.equal(program(x), expected)
"""


class Attention(torch.nn.Module):
    """One call of attention."""

    def __init__(self, pattern: sp.Pattern) -> None:
        super().__init__()
        self.pattern = pattern

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sp.attention(x, x, x, self.pattern)


def test_an_exported_program_finds_its_rule_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rules_of_a_user.py").write_text(RULES)
    monkeypatch.syspath_prepend(str(tmp_path))
    import rules_of_a_user as rules

    x = torch.eye(8).expand(1, 1, 8, 8)
    program = torch.export.export(Attention(sp.Rule(rules.past)), (x,))
    torch.export.save(program, tmp_path / "program.pt2")
    (tmp_path / "loaded.py").write_text(LOADED)
    run_program(tmp_path / "loaded.py", "program.pt2", folder=tmp_path)


def test_a_rule_without_an_import_path_is_refused_while_exporting() -> None:
    x = torch.eye(8).expand(1, 1, 8, 8)
    rule = sp.Rule(lambda q, k, head: q >= k)
    assert sp.attention(x, x, x, rule).shape == x.shape
    with pytest.raises(Exception, match="the function of its Rule has no import path"):
        torch.export.export(Attention(rule), (x,))


def test_a_function_that_replaces_another_of_its_name_is_another_pattern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rules_made_anew.py").write_text(RULES)
    monkeypatch.syspath_prepend(str(tmp_path))
    import rules_made_anew as rules

    former = sp.Rule(rules.past)
    first = module.intern(former)
    monkeypatch.setattr(rules, "past", rules.near)
    rules.near.__name__ = rules.near.__qualname__ = "past"
    second = module.intern(sp.Rule(rules.near))
    assert first != second
    assert module.look_up(first) is former
    assert module.look_up(second) == sp.Rule(rules.near)
