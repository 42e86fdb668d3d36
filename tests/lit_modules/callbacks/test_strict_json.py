"""What is written is JSON by the standard, which has no infinity and no NaN."""

import json
import math
from typing import NoReturn

from lit_modules.callbacks.strict_json import dumps


def refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is not JSON")


def test_what_is_not_finite_is_null_at_any_depth() -> None:
    content = {"a": -math.inf, "b": [math.nan, 1.5, ("é", math.inf)], "c": {"d": 3, "e": None}}
    text = dumps(content)
    assert json.loads(text, parse_constant=refuse) == {
        "a": None,
        "b": [None, 1.5, ["é", None]],
        "c": {"d": 3, "e": None},
    }
    assert "é" in text
    assert dumps({"a": 1}, indent=2) == '{\n  "a": 1\n}'
