"""Specs as plain data and back, for configuration files, checkpoints and command lines.

    to_config(Window(256, 256) | Global((0,)))
    {"union": [{"window": {"left": 256, "right": 256}}, {"global": {"tokens": [0]}}]}

An atom is a mapping from its name to its fields, those with their default left out: `window`,
`causal`, `full`, `global`, `batch_global`, `strided`, `local_block`, `summary`, `random_blocks`,
`block_table`, `grid_window`, `same_document`, `rule`. The algebra is `{union: [...]}`,
`{intersection: [...]}`, `{complement: ...}`, `{per_head: [...]}` (with `rest: true` beside it) and
`{per_layer: [...]}` (with `repeat: true`). A number is an int, `{per_head: [1, 2]}` for one per
head, `{per_layer: [32, 64]}` or a plain list for one per layer, or a schedule:
`{linear: [32, 512]}`, `{geometric: [32, 512]}`, `{steps: [[32, 4], [64, 8]]}`,
`{spread: [1, 1, 2]}`, or one of them and a number added: `{plus: [{linear: [32, 512]}, -1]}`. The
numbers of a `grid_window` take `{per_dimension: [7, 0]}` in place of `per_head`.

Also read, for those who write by hand: a bare name (`bigbird`, `causal`), a preset with its fields
(`{preset: longformer, window: 512}`, or `{name: ...}`), windows as `{window: {around: 512}}` or
`{window: {before: 4095}}`, and a pattern as it is in any place of one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from sparse_patterns.config.reader import ATOMS, KINDS, SPECIAL, Reader
from sparse_patterns.spec.algebra import PerHead, PerLayer
from sparse_patterns.spec.atoms import Rule
from sparse_patterns.spec.base import Complement, Intersection, Pattern, Union
from sparse_patterns.spec.fields import boolean
from sparse_patterns.spec.validation import check_pattern

_NAME_OF = {kind: name for name, kind in ATOMS.items()}


def to_config(pattern: Pattern) -> dict[str, Any]:
    """Return the pattern as plain data: dicts, lists, strings, ints and bools.

    `from_config` makes an equal pattern of it, also after a way through JSON, YAML or OmegaConf.

    Args:
        pattern: Any pattern of this package.

    Raises:
        TypeError: Not a pattern, or one of a class that is not known here.
        ValueError: A `Rule` whose function cannot be imported by name.
    """
    match check_pattern(pattern):
        case Union(parts):
            return {"union": [to_config(part) for part in parts]}
        case Intersection(parts):
            return {"intersection": [to_config(part) for part in parts]}
        case Complement(part):
            return {"complement": to_config(part)}
        case PerHead(parts, rest):
            flag = {"rest": True} if rest else {}
            return {"per_head": [to_config(part) for part in parts], **flag}
        case PerLayer(parts, repeat):
            flag = {"repeat": True} if repeat else {}
            return {"per_layer": [to_config(part) for part in parts], **flag}
    if type(pattern) not in _NAME_OF:
        raise TypeError(
            f"{type(pattern).__name__} has no plain form, only {', '.join(KINDS)} have one; "
            "write a pattern of your own as Rule(fn)"
        )
    name = _NAME_OF[type(pattern)]
    fields = {}
    for field in dataclasses.fields(pattern):
        value = getattr(pattern, field.name)
        if value != field.default:
            write = SPECIAL[name, field.name][0] if (name, field.name) in SPECIAL else None
            fields[field.name] = write(value) if write else value
    if isinstance(pattern, Rule) and pattern.name == pattern.fn.__name__:
        del fields["name"]
    return {name: fields}


def from_config(config: Any, *, import_rules: bool = True) -> Pattern:
    """Return the pattern that plain data describes.

    A `rule` names its function as `module:function`. Reading it imports that module, which runs its
    code, and the attention later calls the function: read a configuration only from where you would
    take code, or refuse rules. Nothing is taken but a plain function where it was defined: no
    builtin, no callable object, nothing that a module merely imported.

    Args:
        config: What `to_config` returned, or another form from the head of this file. OmegaConf
            nodes are taken as they are.
        import_rules: Whether a `rule` may import its function.

    Raises:
        TypeError: Something has another type. Every message starts with the place in the
            configuration, such as `union[1].window.left`.
        ValueError: A key or name is unknown, missing or one too many, or a value is not allowed.
    """
    return Reader(boolean("import_rules", import_rules)).pattern(config, "")
