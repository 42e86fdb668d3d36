import functools
import json
import sys
import types

import pytest
import yaml
from omegaconf import OmegaConf

import sparse_patterns as sp
from sparse_patterns import from_config, to_config
from sparse_patterns.spec.binding import bind
from sparse_patterns.spec.schedules import Schedule
from tests.random_specs import every_third, random_case

A, B = sp.Window(1, 2), sp.Strided(3)

FORMS = [
    (A, {"window": {"left": 1, "right": 2}}),
    (sp.Window(1, 2, 3), {"window": {"left": 1, "right": 2, "dilation": 3}}),
    (sp.Window((1, 2), 0), {"window": {"left": {"per_head": [1, 2]}, "right": 0}}),
    (sp.Window([1, 2], 0), {"window": {"left": {"per_layer": [1, 2]}, "right": 0}}),
    (
        sp.Window([(1, 2), 3], 0),
        {"window": {"left": {"per_layer": [{"per_head": [1, 2]}, 3]}, "right": 0}},
    ),
    (
        sp.Window(sp.linear(3, 5) - 1, 0),
        {"window": {"left": {"plus": [{"linear": [3, 5]}, -1]}, "right": 0}},
    ),
    (
        sp.Window(sp.linear(1, 2), sp.geometric(3, 4)),
        {"window": {"left": {"linear": [1, 2]}, "right": {"geometric": [3, 4]}}},
    ),
    (
        sp.Window(sp.steps((1, 2), ((3, 4), 5)), sp.spread(1, (2, 3))),
        {
            "window": {
                "left": {"steps": [[1, 2], [{"per_head": [3, 4]}, 5]]},
                "right": {"spread": [1, {"per_head": [2, 3]}]},
            }
        },
    ),
    (sp.Causal(), {"causal": {}}),
    (sp.Full(), {"full": {}}),
    (sp.Global((0, -1)), {"global": {"tokens": [-1, 0]}}),
    (sp.Global(range(64), rows=False), {"global": {"tokens": {"range": [0, 64]}, "rows": False}}),
    (sp.Global(()), {"global": {"tokens": []}}),
    (sp.BatchGlobal(), {"batch_global": {}}),
    (sp.BatchGlobal(rows=False), {"batch_global": {"rows": False}}),
    (B, {"strided": {"stride": 3}}),
    (sp.LocalBlock(4), {"local_block": {"size": 4}}),
    (sp.Summary(4, 1), {"summary": {"size": 4, "columns": 1}}),
    (sp.RandomBlocks(4, 2), {"random_blocks": {"block": 4, "per_row": 2}}),
    (sp.RandomBlocks(4, 2, 7), {"random_blocks": {"block": 4, "per_row": 2, "seed": 7}}),
    (sp.BlockTable(("10", "01"), 4), {"block_table": {"table": ["10", "01"], "block": 4}}),
    (
        sp.BlockTable((("10",), ("01",)), 4),
        {"block_table": {"table": [["10"], ["01"]], "block": 4}},
    ),
    (sp.BlockTable((), 4), {"block_table": {"table": [], "block": 4}}),
    (sp.SameDocument(), {"same_document": {}}),
    (sp.Rule(every_third), {"rule": {"fn": "tests.random_specs:every_third"}}),
    (
        sp.Rule(every_third, name="mine"),
        {"rule": {"fn": "tests.random_specs:every_third", "name": "mine"}},
    ),
    (A | B, {"union": [to_config(A), to_config(B)]}),
    (A & ~B, {"intersection": [to_config(A), {"complement": to_config(B)}]}),
    (sp.PerHead(A, B), {"per_head": [to_config(A), to_config(B)]}),
    (sp.PerHead(A, B, rest=True), {"per_head": [to_config(A), to_config(B)], "rest": True}),
    (sp.PerLayer(A, B), {"per_layer": [to_config(A), to_config(B)]}),
    (sp.PerLayer(A, B, repeat=True), {"per_layer": [to_config(A), to_config(B)], "repeat": True}),
]


@pytest.mark.parametrize(("pattern", "config"), FORMS, ids=lambda value: repr(value)[:60])
def test_the_plain_form(pattern: sp.Pattern, config: dict) -> None:
    assert to_config(pattern) == config
    assert from_config(config) == pattern


def plain(value: object) -> bool:
    """Whether there is nothing but dicts, lists, strings, ints and bools, no subclasses."""
    if type(value) is dict:
        return all(type(key) is str and plain(item) for key, item in value.items())
    if type(value) is list:
        return all(map(plain, value))
    return type(value) in (str, int, bool)


def through_yaml(config: dict) -> object:
    return yaml.safe_load(yaml.safe_dump(config))


def through_omegaconf(config: dict) -> object:
    return OmegaConf.create(config)


def through_omegaconf_yaml(config: dict) -> object:
    return OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(config)))


def through_json(config: dict) -> object:
    return json.loads(json.dumps(config))


WAYS = [through_json, through_yaml, through_omegaconf, through_omegaconf_yaml]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("pattern", "config"), FORMS, ids=lambda value: repr(value)[:60])
def test_every_form_survives_every_way(pattern: sp.Pattern, config: dict, way) -> None:
    assert from_config(way(config)) == pattern


@pytest.mark.parametrize("start", range(0, 300, 100))
def test_random_specs_survive(start: int) -> None:
    for seed in range(start, start + 100):
        pattern = random_case(seed).pattern
        config = to_config(pattern)
        assert plain(config), pattern
        for way in (through_json, WAYS[seed % len(WAYS)]):
            again = from_config(way(config))
            assert again == pattern
            assert hash(again) == hash(pattern)
            assert repr(again) == repr(pattern)


@pytest.mark.parametrize("name", sp.names())
def test_presets_survive(name: str) -> None:
    assert from_config(through_omegaconf_yaml(to_config(sp.get(name)))) == sp.get(name)


def test_the_config_is_not_shared_with_the_pattern() -> None:
    pattern = sp.Window([1, 2], 0) | sp.Global((0,))
    config = to_config(pattern)
    config["union"][0]["window"]["left"]["per_layer"][0] = 9
    config["union"][1]["global"]["tokens"].append(5)
    assert to_config(pattern) != config


HAND_WRITTEN = """
name: bigbird
---
{preset: longformer, window: 64}
---
{name: longformer, window: [32, 64]}
---
{preset: longformer, window: {linear: [32, 512]}, dilation: {per_head: [1, 2]}}
---
{preset: local-global, causal: false, every: 2, window: 8}
---
union: [causal, same_document, {window: {around: 8, dilation: 2}}]
---
union:
  - window: {before: {linear: [32, 512]}}
  - batch_global:
---
{global: {tokens: {range: [-3, 2]}}}
---
{window: {left: [1, {per_head: [2, 3]}], right: 0}}
---
{block_table: {table: [[1, 0], [0, 1]], block: 4}}
---
{union: [{window: {left: 1, right: 2}}]}
---
per_layer: [streaming, {preset: full}]
"""


def test_what_people_write() -> None:
    expected = [
        sp.get("bigbird"),
        sp.get("longformer", window=64),
        sp.get("longformer", window=[32, 64]),
        sp.Window(sp.linear(16, 256), sp.linear(16, 256), (1, 2)) | sp.BatchGlobal(),
        sp.PerLayer(sp.Window(4, 4), sp.Full(), repeat=True),
        sp.Causal() | sp.SameDocument() | sp.Window(4, 4, 2),
        sp.Window(sp.linear(32, 512), 0) | sp.BatchGlobal(),
        sp.Global((-3, -2, -1, 0, 1)),
        sp.Window([1, (2, 3)], 0),
        sp.BlockTable(("10", "01"), 4),
        sp.Window(1, 2),
        sp.PerLayer(sp.get("streaming"), sp.Full()),
    ]
    written = list(yaml.safe_load_all(HAND_WRITTEN))
    assert [from_config(config) for config in written] == expected
    assert [from_config(OmegaConf.create(config)) for config in written] == expected


@pytest.mark.parametrize("name", ["bigbird", "causal", "full", "batch_global", "same_document"])
def test_a_bare_name(name: str) -> None:
    expected = sp.get(name) if name in sp.names() else from_config({name: {}})
    assert from_config(name) == expected
    assert from_config({"preset": name}) == expected


def test_patterns_stand_in_any_place() -> None:
    assert from_config(A) is A
    assert from_config({"union": [A, {"complement": B}]}) == A | ~B


def test_interpolations_are_resolved() -> None:
    config = OmegaConf.create({"width": 7, "pattern": {"window": {"left": "${width}", "right": 0}}})
    assert from_config(config.pattern) == sp.Window(7, 0)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (3, TypeError, "^config must be the name of a pattern or a mapping .*got 3"),
        (None, TypeError, "^config must be .* got None"),
        ([A], TypeError, "^config must be the name of a pattern"),
        ({"union": [3]}, TypeError, r"^union\[0\] must be the name of a pattern .*got 3"),
        ({}, ValueError, "^config must have one key that names a pattern, got none"),
        ({"causal": None, "full": None}, ValueError, "^config must have one key .*causal, full"),
        ({"windw": {}}, ValueError, "^config: unknown key 'windw'. Did you mean 'window'"),
        ({3: {}}, ValueError, "^config: unknown key 3. Allowed: batch_global, "),
        ({"window": 3}, TypeError, "^window must be a mapping of fields, got 3"),
        ({"window": {"left": 1}}, ValueError, "^window needs 'right'; .* left, right, dilation"),
        ({"causal": {"left": 1}}, ValueError, "^causal: unknown key 'left'. Allowed: none"),
        (
            {"window": {"left": 1, "rigth": 2}},
            ValueError,
            "^window: unknown key 'rigth'. Did you mean 'right'",
        ),
        (
            {"window": {"around": 4, "left": 2}},
            ValueError,
            "^window: unknown key 'left' beside 'around'. Allowed: around, dilation",
        ),
        ({"window": {"around": 3}}, ValueError, "^window: window width must be even"),
        (
            {"union": ["causal", {"window": {"left": "a", "right": 0}}]},
            TypeError,
            r"^union\[1\].window.left must be an int, got 'a'",
        ),
        (
            {"union": [{"complement": {"window": {"left": -1, "right": 0}}}]},
            ValueError,
            r"^union\[0\].complement.window: window left must be >= 0, got -1",
        ),
        (
            {"window": {"left": True, "right": 0}},
            TypeError,
            "^window.left must be an int, got True",
        ),
        ({"window": {"left": 1.0, "right": 0}}, TypeError, r"^window.left .*int, got 1\.0"),
        (
            {"window": {"left": (1, 2), "right": 0}},
            TypeError,
            r"^window.left must not be a tuple, .*\{per_head: \[1, 2\]\}",
        ),
        (
            {"window": {"left": {"liner": [1, 2]}, "right": 0}},
            ValueError,
            "^window.left: unknown kind of number 'liner'. Did you mean 'linear'",
        ),
        (
            {"window": {"left": {}, "right": 0}},
            ValueError,
            "^window.left must have one of per_head",
        ),
        (
            {"window": {"left": {"linear": [1]}, "right": 0}},
            ValueError,
            r"^window.left.linear takes \[start, stop\], got \[1\]",
        ),
        (
            {"window": {"left": {"linear": [1, "b"]}, "right": 0}},
            TypeError,
            r"^window.left.linear\[1\] must be an int, got 'b'",
        ),
        (
            {"window": {"left": {"geometric": [0, 2]}, "right": 0}},
            ValueError,
            "^window.left.geometric: geometric start must be >= 1, got 0",
        ),
        (
            {"window": {"left": {"steps": [[1, 2], [3]]}, "right": 0}},
            ValueError,
            r"^window.left.steps\[1\] must be \[value, count\], got \[3\]",
        ),
        (
            {"window": {"left": {"steps": [[1, 0]]}, "right": 0}},
            ValueError,
            "^window.left.steps: steps count must be >= 1, got 0",
        ),
        (
            {"window": {"left": {"spread": [{"linear": [1, 2]}]}, "right": 0}},
            ValueError,
            r"^window.left.spread\[0\]: unknown kind of number 'linear'. Allowed: per_head",
        ),
        (
            {"window": {"left": {"per_head": [1, [2]]}, "right": 0}},
            TypeError,
            r"^window.left.per_head\[1\] must be an int, got \[2\]",
        ),
        ({"window": {"left": {"per_head": []}, "right": 0}}, ValueError, "^window.left.per_head"),
        ({"window": {"left": [], "right": 0}}, ValueError, "^window.left: .* must not be empty"),
        (
            {"window": {"left": {"linear": 3}, "right": 0}},
            TypeError,
            "linear must be a list, got 3",
        ),
        ({"global": {"tokens": 3}}, TypeError, "^global.tokens must be a list, got 3"),
        ({"global": {"tokens": ["a"]}}, TypeError, r"^global.tokens\[0\] must be an int, got 'a'"),
        ({"global": {"tokens": {"range": [3]}}}, ValueError, r"^global.tokens.range takes \[start"),
        ({"global": {"tokens": [], "rows": 1}}, TypeError, "^global.rows must be True or False"),
        ({"strided": {"stride": "3"}}, TypeError, "^strided.stride must be an int, got '3'"),
        ({"strided": {"stride": 0}}, ValueError, "^strided: stride must be >= 1, got 0"),
        (
            {"block_table": {"table": [10, 11], "block": 4}},
            TypeError,
            "^block_table: block table rows must hold 0 and 1, got 10",
        ),
        ({"union": []}, ValueError, "^union needs at least one pattern, got none"),
        ({"union": "causal"}, TypeError, "^union must be a list, got 'causal'"),
        ({"union": {"causal": None}}, TypeError, "^union must be a list"),
        (
            {"per_layer": ["causal"], "repeet": True},
            ValueError,
            "^config: unknown key 'repeet' beside 'per_layer'. Did you mean 'repeat'",
        ),
        ({"per_head": ["causal"], "rest": 1}, TypeError, "^rest must be True or False, got 1"),
        ({"union": ["full"], "repeat": True}, ValueError, "key 'repeat' beside 'union'.*none"),
        ("bigbrid", ValueError, "^config: unknown pattern 'bigbrid'. Did you mean 'bigbird'"),
        ({"union": ["causl"]}, ValueError, r"^union\[0\]: unknown .* Did you mean 'causal'"),
        ({"preset": 3}, TypeError, "^preset must be a string, got 3"),
        ({"preset": "longformr"}, ValueError, "^config: unknown pattern 'longformr'. Did you mean"),
        (
            {"union": [{"preset": "longformer", "windw": 4}]},
            ValueError,
            r"^union\[0\]: pattern 'longformer' has no field 'windw'. Did you mean 'window'",
        ),
        ({"preset": "longformer", "window": 3}, ValueError, "^config: window width must be even"),
        (
            {"preset": "longformer", "window": {"linear": [2, "b"]}},
            TypeError,
            r"^window.linear\[1\] must be an int, got 'b'",
        ),
        ({"preset": "causal", "left": 1}, ValueError, "^config: unknown pattern 'causal'"),
    ],
    ids=lambda value: repr(value)[:70] if isinstance(value, dict | list | str) else "",
)
def test_mistakes_are_named_with_their_place(config, error, message: str) -> None:
    with pytest.raises(error, match=message):
        from_config(config)


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


def test_what_has_no_plain_form_is_refused() -> None:
    class Mine(sp.Pattern):
        pass

    class Own(Schedule):
        def values(self):
            return (1,)

    with pytest.raises(TypeError, match=r"Mine has no plain form, .*Rule\(fn\)"):
        to_config(A | Mine())
    with pytest.raises(TypeError, match="Own has no plain form, only per_head"):
        to_config(sp.Window(Own(), 0))
    with pytest.raises(TypeError, match="BoundRandomBlocks has no plain form"):
        to_config(bind(sp.RandomBlocks(4, 1), heads=1)[0])
    with pytest.raises(TypeError, match="pattern must be a Pattern, got 'bigbird'"):
        to_config("bigbird")


def test_fields_of_a_preset_may_be_patterns_and_plain_data() -> None:
    seen = {}

    @sp.register("nested")
    def nested(inner: sp.Pattern, **fields: object) -> sp.Pattern:
        """Keep what is given."""
        seen.update(fields, inner=inner)
        return inner

    config = {
        "preset": "nested",
        "name": "x",
        "inner": {"per_layer": [{"window": {"before": 3}}, "causal"]},
        "numbers": {"per_layer": [1, {"per_head": [2, 3]}]},
        "plain": {"a": [1, {"b": None}], "c": 0.5},
    }
    inner = sp.PerLayer(sp.Window(3, 0), sp.Causal())
    assert from_config(OmegaConf.create(config)) == inner
    assert seen == {
        "inner": inner,
        "name": "x",
        "numbers": sp.Window([1, (2, 3)], 0).left,
        "plain": {"a": [1, {"b": None}], "c": 0.5},
    }
    assert type(seen["plain"]["a"]) is list
