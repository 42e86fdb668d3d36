"""Plain argument parsing: errors of one line, and fields with values in YAML."""

import pytest

from lit_modules.commands.arguments import Parser, mapping
from lit_modules.commands.errors import UsageError


def test_an_error_is_raised_with_the_program_and_not_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = Parser(prog="sparse-patterns data")
    parser.add_argument("--length", type=int)
    with pytest.raises(UsageError, match=r"'long' \(see sparse-patterns data --help\)$") as caught:
        parser.parse_args(["--length", "long"])
    assert "--length" in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_an_unknown_option_is_an_error() -> None:
    with pytest.raises(UsageError, match="unrecognized arguments: --lenght"):
        Parser(prog="sparse-patterns").parse_args(["--lenght"])


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("left=3", 3),
        ("left=0.5", 0.5),
        ("left=[1, 2]", [1, 2]),
        ("left={name: window}", {"name": "window"}),
        ("left=true", True),
        ("left=null", None),
        ("left=window", "window"),
        ("left=a=b", "a=b"),
    ],
)
def test_a_value_has_its_type_in_yaml(word: str, value: object) -> None:
    read = mapping([word])["left"]
    assert read == value
    assert type(read) is type(value)


def test_the_last_value_of_a_field_counts() -> None:
    assert mapping(["left=1", "right=2", "left=3"]) == {"left": 3, "right": 2}
    assert mapping([]) == {}


@pytest.mark.parametrize("word", ["left", "=3", ""])
def test_a_word_without_a_field_is_an_error(word: str) -> None:
    with pytest.raises(UsageError, match=f"^expected FIELD=VALUE, got '{word}'$"):
        mapping(["right=2", word])
