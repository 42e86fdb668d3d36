"""What is committed stands alone: no machine's path, no registry; it is typed and explained."""

import importlib
import inspect
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("sparse_patterns", "lit_modules", "datamodules")

# Taking one of these away breaks users.
PUBLIC = {
    "sparse_patterns": """
        Window Causal Full Global BatchGlobal Strided LocalBlock Summary RandomBlocks BlockTable
        SameDocument Rule PerHead PerLayer linear geometric steps
        attention dense_mask plan explain register get names describe to_config from_config
        SparseSelfAttention KeyValueCache draw show
    """,
    "datamodules": "register get names",
}

# Written in pieces, so that this file does not contain what it forbids.
FORBIDDEN = [
    # An absolute path under a folder that only one machine or one user has. A relative path
    # ("a/home/b") and an address ("https://host/home/") are fine.
    re.compile(
        r"(?<![\w.*)}~/-])/(" + "|".join(["work", "root", "home", "opt", "Users"]) + r")/[\w.]"
    ),
    # A registry: which one serves a package is each machine's own setting.
    re.compile("|".join(["py" + "pi.org", "python" + "hosted", "npm" + "js", "deb" + "ian.org"])),
    re.compile("download" + r"\.pytorch|" + "--(extra-)?index" + "-url|" + "--find" + "-links"),
]


def forbidden_in(text: str) -> list[str]:
    """The lines of a text that name a machine's path or a registry, with their numbers."""
    return [
        f"{number}: {line.strip()}"
        for number, line in enumerate(text.splitlines(), 1)
        if any(pattern.search(line) for pattern in FORBIDDEN)
    ]


def committed_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listing.stdout.split("\0") if name]


def public_objects(module: ModuleType) -> list[tuple[str, object]]:
    return [(f"{module.__name__}.{name}", getattr(module, name)) for name in module.__all__]


def lacks_docstring(value: object) -> bool:
    """True for a class, function or module without words of its own; data needs none."""
    if not (inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value)):
        return False
    text = value.__doc__ or ""
    # A dataclass without a docstring is given its signature as one.
    return not text.strip() or text.startswith(f"{value.__name__}(")


def modules_of(package: str) -> list[ModuleType]:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / package).rglob("*.py"))
    ]
    return [importlib.import_module(name) for name in names]


def test_nothing_committed_names_a_machine_or_a_registry() -> None:
    found = []
    for path in committed_files():
        data = path.read_bytes() if path.is_file() else b""
        if b"\0" not in data:
            lines = forbidden_in(data.decode("utf-8", errors="replace"))
            found += [f"{path.relative_to(ROOT)}:{line}" for line in lines]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "data = '/" + "work/main/data'",
        "see /" + "root/.cache",
        "pip install --index" + "-url x",
        "https://py" + "pi.org/simple",
    ],
)
def test_a_planted_path_or_host_is_caught(line: str) -> None:
    assert forbidden_in("fine\n" + line) == [f"2: {line}"]


@pytest.mark.parametrize("line", ["a/home/b", "https://x.org/home/page", "out/work/x", "~/work/x"])
def test_other_paths_pass(line: str) -> None:
    assert forbidden_in(line) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_package_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
    assert (ROOT / package / "__init__.py").is_file()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_and_public_name_has_a_docstring(package: str) -> None:
    modules = modules_of(package)
    found = [module.__name__ for module in modules if lacks_docstring(module)]
    for module in modules:
        if hasattr(module, "__all__"):
            found += [name for name, value in public_objects(module) if lacks_docstring(value)]
    assert found == []


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_exist_and_are_listed_once(package: str) -> None:
    for module in modules_of(package):
        names = getattr(module, "__all__", [])
        assert len(set(names)) == len(names), module.__name__
        assert [name for name in names if not hasattr(module, name)] == [], module.__name__


@pytest.mark.parametrize("package", PUBLIC)
def test_the_names_users_rely_on_are_public(package: str) -> None:
    assert set(PUBLIC[package].split()) - set(importlib.import_module(package).__all__) == set()


def test_a_missing_docstring_is_seen() -> None:
    def bare() -> None: ...

    def explained() -> None:
        """Says something."""

    assert lacks_docstring(bare)
    assert not lacks_docstring(explained)
    assert not lacks_docstring(3)
