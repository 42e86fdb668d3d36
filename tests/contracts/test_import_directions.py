"""Imports go one way, and optional libraries stay inside their own files.

Read from the source, not run. The rules: what each package may import, which file owns an optional
library (and imports it only inside a function), and that no kernel imports another.
"""

import ast
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.contracts.imports import ROOT, Import, imports_of, read_sources

OURS = ("sparse_patterns", "lit_modules", "datamodules")

# What a package may import anywhere; a dotted name admits that module and what is below it.
ALLOWED = {
    "sparse_patterns": ["sparse_patterns", "torch"],
    "datamodules": [
        "datamodules",
        "torch",
        "lightning",
        "omegaconf",
        "tqdm",
        "fsspec",
        "sparse_patterns.registry",
        "sparse_patterns.config.files",
    ],
    "lit_modules": [
        "lit_modules",
        "sparse_patterns",
        "torch",
        "lightning",
        "torchmetrics",
        "omegaconf",
    ],
}

# What only some files may import: at the top of the file ...
OWNED = {
    "jsonargparse": ["lit_modules/cli.py", "lit_modules/commands/*"],
    "datamodules": ["datamodules/*", "lit_modules/cli.py"],
}

# ... or only inside a function, so that the package loads without the library.
LAZY = {
    "xformers": [
        "sparse_patterns/kernels/block_sparse/library.py",
        "sparse_patterns/kernels/fused/xformers.py",
    ],
    "mslk": ["sparse_patterns/kernels/fused/xformers.py"],
    "torch.nn.attention.flex_attention": ["sparse_patterns/kernels/flex/passes.py"],
    "matplotlib": [
        *(f"sparse_patterns/viz/{name}.py" for name in ("figure", "grids", "style")),
        "lit_modules/callbacks/pictures.py",
    ],
    "rich": ["lit_modules/callbacks/report.py"],
    "omegaconf": ["sparse_patterns/config/codec.py"],
    "transformers": ["sparse_patterns/huggingface/*", "lit_modules/weights.py"],
    "safetensors": ["lit_modules/pretrained/files.py"],
    "pyarrow": ["datamodules/files/tables.py"],
    "scipy": ["lit_modules/metrics/coref.py"],
    "tokenizers": ["datamodules/tokenizers/library.py"],
    "platformdirs": ["sparse_patterns/config/files.py"],
    "tensorboard": [],
}


def wrong(item: Import) -> str | None:
    """Says which rule an import breaks; None when it is fine."""
    package = item.file.split("/")[0]
    if item.name.split(".")[0] in sys.stdlib_module_names:
        return None
    for module, owners in LAZY.items():
        if item.of(module) and not (module == "omegaconf" and package != "sparse_patterns"):
            if not any(fnmatch(item.file, owner) for owner in owners):
                return f"{module} belongs to {' and '.join(owners) or 'no file of ours'}"
            return None if item.deferred else f"{module} must be imported inside a function"
    for module, owners in OWNED.items():
        if item.of(module):
            fine = any(fnmatch(item.file, owner) for owner in owners)
            return None if fine else f"{module} belongs to {' and '.join(owners)}"
    if any(item.of(module) for module in ALLOWED[package]):
        return None
    return f"{package} may import {', '.join(ALLOWED[package])} only"


def room_of(file: str) -> str:
    """The module of a kernel: its own file, or the folder that it shares with its parts."""
    return ".".join(Path(file.removesuffix(".py")).parts[:3])


def kernel_rooms(sources: dict[str, str]) -> set[str]:
    """The modules that define a kernel: a class derived from `Kernel`."""
    return {
        room_of(file)
        for file, source in sources.items()
        if file.startswith("sparse_patterns/kernels/")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).split("[")[0].split(".")[-1] == "Kernel" for base in node.bases)
    }


def violations(sources: dict[str, str]) -> list[str]:
    """Every broken rule in a set of files, as `file:line: imports name: why it is wrong`."""
    found = []
    kernels = kernel_rooms(sources)
    for file, source in sources.items():
        own = room_of(file)
        # The dispatch is the one file that knows every kernel.
        beside_kernels = file.startswith("sparse_patterns/kernels/") and file not in (
            "sparse_patterns/kernels/__init__.py",
            "sparse_patterns/kernels/dispatch.py",
        )
        for item in imports_of(source, file):
            why = wrong(item)
            if why is None and beside_kernels:
                other = next((name for name in sorted(kernels - {own}) if item.of(name)), None)
                why = other and f"{other} is a kernel, and no kernel rests on another"
            if why:
                found.append(f"{file}:{item.line}: imports {item.name}: {why}")
    return found


@pytest.mark.parametrize("package", OURS)
def test_imports_follow_the_table(package: str) -> None:
    sources = read_sources(ROOT, package)
    assert f"{package}/__init__.py" in sources
    assert violations(sources) == []


def test_the_kernels_are_found() -> None:
    found = {room.split(".")[-1] for room in kernel_rooms(read_sources(ROOT, "sparse_patterns"))}
    assert found == {"dense", "tiles", "fused", "flex", "block_sparse", "sdpa"}


@pytest.mark.parametrize(
    ("file", "source", "why"),
    [
        ("sparse_patterns/lowering/plan.py", "import lightning", "may import"),
        ("sparse_patterns/lowering/plan.py", "from lit_modules import cli", "may import"),
        (
            "sparse_patterns/lowering/plan.py",
            "def f():\n    import datamodules",
            "datamodules belongs to",
        ),
        ("sparse_patterns/lowering/plan.py", "import numpy", "may import"),
        (
            "sparse_patterns/lowering/plan.py",
            "def f():\n    import xformers.ops",
            "xformers belongs to",
        ),
        ("sparse_patterns/viz/figure.py", "import matplotlib.pyplot as plt", "inside a function"),
        ("sparse_patterns/viz/figure.py", "class A:\n    import matplotlib", "inside a function"),
        (
            "sparse_patterns/viz/figure.py",
            "def f(a=__import__('matplotlib')): ...",
            "inside a function",
        ),
        (
            "sparse_patterns/lowering/plan.py",
            "import_module('transformers')",
            "transformers belongs to",
        ),
        ("sparse_patterns/config/codec.py", "import omegaconf", "inside a function"),
        (
            "sparse_patterns/kernels/dispatch.py",
            "def f():\n    from torch.nn.attention import flex_attention",
            "flex_attention belongs to",
        ),
        ("datamodules/language_model/base.py", "from sparse_patterns import plan", "may import"),
        ("datamodules/language_model/base.py", "import sparse_patterns", "may import"),
        ("datamodules/language_model/base.py", "import torchmetrics", "may import"),
        ("datamodules/tokenizers/library.py", "import tokenizers", "inside a function"),
        (
            "lit_modules/language_model.py",
            "import datamodules.language_model.batch",
            "datamodules belongs to",
        ),
        ("lit_modules/language_model.py", "import jsonargparse", "jsonargparse belongs to"),
        (
            "lit_modules/pretrained/files.py",
            "from safetensors.torch import load_file",
            "inside a function",
        ),
        ("lit_modules/cli.py", "def f():\n    import tensorboard", "no file of ours"),
    ],
)
def test_a_planted_violation_is_caught(file: str, source: str, why: str) -> None:
    (found,) = violations({file: source})
    assert found.startswith(f"{file}:")
    assert why in found


@pytest.mark.parametrize(
    "line", ["from .dense import Dense", "from sparse_patterns.kernels.dense.kernel import Dense"]
)
@pytest.mark.parametrize("importer", ["tiles.py", "tile_layout.py"])
def test_a_kernel_that_rests_on_another_is_caught(importer: str, line: str) -> None:
    dense = "from .base import Kernel\nclass Dense(Kernel): ...\n"
    sources = {
        "sparse_patterns/kernels/__init__.py": "from .dense import Dense",
        "sparse_patterns/kernels/dense.py": dense,
        f"sparse_patterns/kernels/{importer}": line,
    }
    (found,) = violations(sources)
    assert "no kernel rests on another" in found
    assert importer in found


def test_what_the_rules_allow_passes() -> None:
    sources = {
        "sparse_patterns/viz/figure.py": (
            "import math, torch\ndef f():\n    import matplotlib.pyplot\n"
        ),
        "sparse_patterns/kernels/flex/passes.py": (
            "from typing import TYPE_CHECKING\nfrom ..lowering.plan import Plan\n"
            "if TYPE_CHECKING:\n    from torch.nn.attention.flex_attention import BlockMask\n"
        ),
        "datamodules/language_model/base.py": (
            "from sparse_patterns.registry import Registry\nimport lightning\n"
        ),
        "lit_modules/cli.py": "import datamodules, jsonargparse\nfrom . import weights\n",
    }
    assert violations(sources) == []
