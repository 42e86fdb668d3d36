"""Patterns as strings: bounded, also for rules, and safe to use from several threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest

import sparse_patterns as sp
from sparse_patterns.config import handles as module


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
