"""Patterns from plain data: the reading half of `config.codec`, which describes the forms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from typing import Any

from sparse_patterns.config import grids, values
from sparse_patterns.config.values import at, check_keys, join
from sparse_patterns.spec import atoms, presets
from sparse_patterns.spec.algebra import PerHead, PerLayer
from sparse_patterns.spec.atoms import Window
from sparse_patterns.spec.base import Full, Pattern, intersection, union
from sparse_patterns.spec.grids import GridWindow

ATOMS: dict[str, type[Pattern]] = {
    "batch_global": atoms.BatchGlobal,
    "block_table": atoms.BlockTable,
    "causal": atoms.Causal,
    "full": Full,
    "global": atoms.Global,
    "grid_window": GridWindow,
    "local_block": atoms.LocalBlock,
    "random_blocks": atoms.RandomBlocks,
    "rule": atoms.Rule,
    "same_document": atoms.SameDocument,
    "strided": atoms.Strided,
    "summary": atoms.Summary,
    "window": atoms.Window,
}
SPECIAL: dict[tuple[str, str], tuple[Callable[[Any], Any], Callable[[Any, str], Any]]] = {
    ("block_table", "table"): (values.write_table, values.read_plain),
    ("global", "tokens"): (values.write_tokens, values.read_tokens),
    ("grid_window", "shape"): (grids.write_shape, grids.read_shape),
    ("grid_window", "radius"): (grids.write_per_dimension, grids.read_per_dimension),
    ("grid_window", "dilation"): (grids.write_per_dimension, grids.read_per_dimension),
    ("rule", "fn"): (values.write_function, values.read_function),
    ("rule", "name"): (str, values.read_text),
    ("window", "left"): (values.write_number, values.read_number),
    ("window", "right"): (values.write_number, values.read_number),
    ("window", "dilation"): (values.write_number, values.read_number),
}
"""How the fields that are no plain int or bool are written and read."""

# The makers of several patterns, with the flags that may stand beside each.
_MAKERS: dict[str, tuple[Callable[..., Pattern], tuple[str, ...]]] = {
    "union": (union, ()),
    "intersection": (intersection, ()),
    "per_head": (PerHead, ("rest",)),
    "per_layer": (PerLayer, ("repeat",)),
}
KINDS = (*ATOMS, "complement", *_MAKERS)
_BARE = ("batch_global", "causal", "full", "same_document")
_SHORT = {"around": Window.around, "before": Window.before}


@dataclass(frozen=True)
class Reader:
    """Reads from the outside in; `path` is the place in the configuration, for messages.

    Attributes:
        import_rules: Whether a `rule` may import its function.
    """

    import_rules: bool

    def pattern(self, config: Any, path: str) -> Pattern:
        """Read a pattern in any form."""
        if isinstance(config, Pattern):
            return config
        if isinstance(config, str):
            return self._named(config, {}, path)
        if not isinstance(config, Mapping):
            raise TypeError(
                f"{path or 'config'} must be the name of a pattern or a mapping such as "
                f"{{window: {{left: 256, right: 256}}}}, got {config!r}"
            )
        for key in ("preset", "name"):
            if key in config:
                fields = {other: config[other] for other in config if other != key}
                return self._named(config[key], fields, path)
        kinds = [key for key in config if key in KINDS]
        if not kinds:
            check_keys(config, (*KINDS, "preset"), path)
        if len(kinds) != 1:
            raise ValueError(
                f"{path or 'config'} must have one key that names a pattern, got "
                f"{', '.join(kinds) or 'none'}; join several by {{union: [...]}} or "
                "{intersection: [...]}"
            )
        kind, rest = kinds[0], [key for key in config if key != kinds[0]]
        make, flags = _MAKERS.get(kind, (None, ()))
        check_keys(rest, flags, path, beside=kind)
        inside = join(path, kind)
        if make is None:
            if kind == "complement":
                return ~self.pattern(config[kind], inside)
            return self._atom(kind, values.read_mapping(config[kind], inside), inside)
        given = {key: values.read_boolean(config[key], join(path, key)) for key in rest}
        items = enumerate(values.read_list(config[kind], inside))
        parts = [self.pattern(item, f"{inside}[{index}]") for index, item in items]
        if not parts:
            raise ValueError(f"{inside} needs at least one pattern, got none")
        return make(*parts, **given)

    def _named(self, name: Any, fields: Mapping[Any, Any], path: str) -> Pattern:
        """Read a preset with its fields, or an atom that needs none."""
        values.read_text(name, join(path, "preset"))
        if name.lstrip()[:1] in ("{", "["):
            raise ValueError(
                f"{path or 'config'}: {name!r} is neither a name nor a pattern that can be read "
                "as YAML or JSON; a bracket, comma or quote may be missing"
            )
        if name in _BARE and not fields:
            return ATOMS[name]()
        check_keys([name], sorted({*presets.names(), *_BARE}), path, "pattern")
        read = {str(key): self._field(fields[key], join(path, key)) for key in fields}
        with at(path):
            return presets.get(name, **read)

    def _field(self, value: Any, path: str) -> Any:
        """Read a field of a preset: a number that varies, a pattern, or plain data."""
        if grids.is_per_dimension(value):
            return grids.read_per_dimension(value, path)
        if values.is_number(value):
            return values.read_number(value, path)
        if isinstance(value, Mapping) and any(key in KINDS for key in value):
            return self.pattern(value, path)
        return values.read_plain(value, path)

    def _atom(self, kind: str, config: dict[Any, Any], path: str) -> Pattern:
        for short in _SHORT:
            if kind == "window" and short in config:
                check_keys(config, (short, "dilation"), path, beside=short)
                read = [values.read_number(config[key], join(path, key)) for key in config]
                numbers = dict(zip(config, read, strict=True))
                with at(path):
                    return _SHORT[short](numbers[short], numbers.get("dilation", 1))
        fields = {field.name: field for field in dataclasses.fields(ATOMS[kind])}
        shorts = tuple(_SHORT) if kind == "window" else ()
        check_keys(config, (*fields, *shorts), path)
        for name, field in fields.items():
            if field.default is MISSING and name not in config:
                raise ValueError(f"{path} needs {name!r}; its fields are: {', '.join(fields)}")
        if kind == "rule" and not self.import_rules:
            raise ValueError(
                f"{path} would import {config['fn']!r}, which import_rules=False forbids"
            )
        given = {}
        for key, value in config.items():
            plain = (
                values.read_boolean if fields[key].type in ("bool", bool) else values.read_integer
            )
            _, read_field = SPECIAL.get((kind, key), (None, plain))
            given[key] = read_field(value, join(path, key))
        with at(path):
            return ATOMS[kind](**given)
