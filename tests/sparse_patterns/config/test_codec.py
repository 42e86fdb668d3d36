"""Patterns survive the way through plain data, YAML and JSON."""

import json

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
    (sp.GridWindow((4, 5), 3), {"grid_window": {"shape": [4, 5], "radius": 3}}),
    (
        sp.GridWindow((4, 5), (3, sp.linear(0, 2)), [1, (1, 2)], prefix=1),
        {
            "grid_window": {
                "shape": [4, 5],
                "radius": {"per_dimension": [3, {"linear": [0, 2]}]},
                "dilation": {"per_layer": [1, {"per_dimension": [1, 2]}]},
                "prefix": 1,
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
def test_every_form_survives_every_way(way) -> None:
    for pattern, config in FORMS:
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
