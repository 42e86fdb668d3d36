"""Functions of rules are written by their place, and read from nowhere else."""

import functools
import sys
import types

import pytest

import sparse_patterns as sp
from sparse_patterns import from_config, to_config
from tests.random_specs import every_third

A, B = sp.Window(1, 2), sp.Strided(3)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("os:system", "must be a plain function defined at 'os:system'"),
        ("builtins:eval", "must be a plain function defined at 'builtins:eval'"),
        ("os.path:join", "must be a plain function defined at 'os.path:join'"),
        ("sparse_patterns:Window", "must be a plain function defined at"),
        ("tests.random_specs:torch.nn.functional.relu", "must be a plain function defined at"),
        ("tests.random_specs:missing", "'tests.random_specs:missing' was not found"),
        ("no_such_module_here:fn", "was not found: No module named"),
        ("tests.random_specs", "as module:function, got 'tests.random_specs'"),
        ("__main__:fn", "as module:function, got '__main__:fn'"),
        ("tests.random_specs:<lambda>", "as module:function"),
        ("../x:fn", "as module:function"),
    ],
)
def test_rules_take_nothing_but_plain_functions_where_they_are_defined(
    place: str, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"^union\[0\]\.rule\.fn .*{message}"):
        from_config({"union": [{"rule": {"fn": place}}]})


def test_rules_can_be_refused_without_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"imported {name}"))
    config = {"union": ["causal", {"rule": {"fn": "tests.random_specs:every_third"}}]}
    with pytest.raises(
        ValueError, match=r"union\[1\]\.rule would import 'tests.*import_rules=False"
    ):
        from_config(config, import_rules=False)
    assert from_config({"union": ["causal"]}, import_rules=False) == sp.Causal()


def test_rules_that_cannot_be_found_again_are_not_written() -> None:
    def inner(q, k, head):
        return q == k

    class Callable:
        def __call__(self, q, k, head):
            return q == k

    main = types.FunctionType(inner.__code__, {}, "every_third")
    main.__module__, main.__qualname__ = "tests.random_specs", "every_third"
    for fn in (inner, lambda q, k, head: q == k, functools.partial(every_third), Callable(), main):
        with pytest.raises(ValueError, match=r"function is importable by name, .*top level"):
            to_config(sp.Rule(fn) | A)


def test_a_rule_of_the_script_being_run_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def rule(q, k, head):
        return q == k

    rule.__module__, rule.__qualname__ = "__main__", "rule"
    monkeypatch.setattr(sys.modules["__main__"], "rule", rule, raising=False)
    with pytest.raises(ValueError, match="not the script being run"):
        to_config(sp.Rule(rule))
