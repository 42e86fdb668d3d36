"""What people write by hand is read, and mistakes are named with their place."""

import pytest
import yaml
from omegaconf import OmegaConf

import sparse_patterns as sp
from sparse_patterns import from_config

A, B = sp.Window(1, 2), sp.Strided(3)


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
        (
            '{"window": {"left": 3}',
            ValueError,
            "^config: .* nor a pattern that can be read",
        ),
    ],
    ids=lambda value: repr(value)[:70] if isinstance(value, dict | list | str) else "",
)
def test_mistakes_are_named_with_their_place(config, error, message: str) -> None:
    with pytest.raises(error, match=message):
        from_config(config)


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
