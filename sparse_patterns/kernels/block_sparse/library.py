"""The one library that the block-sparse kernel needs: what is missing of it, and its import."""

from __future__ import annotations

import logging
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MINIMUM = "0.0.35"
"""The oldest release of xformers that this file was written against."""


@cache
def missing() -> tuple[str, ...]:
    """Return what is missing of xformers, and how to get it, without importing it.

    Every call of an attention asks; the folders of Python are searched once.
    """
    spec = find_spec("xformers")
    if spec is None:
        return (f"xformers is not installed: pip install 'xformers>={MINIMUM}'",)
    for folder in spec.submodule_search_locations or ():
        if Path(folder, "sparse", "blocksparse_tensor.py").exists():
            return ()
    try:
        version = metadata.version("xformers")
    except metadata.PackageNotFoundError:
        version = "of an unknown version"
    return (
        f"xformers {version} has no xformers.sparse.BlockSparseTensor: "
        f"pip install 'xformers=={MINIMUM}'",
    )


@cache
def library() -> tuple[Any, Any]:
    """Import xformers quietly; return `masked_matmul` and `BlockSparseTensor`.

    Where its CUDA extensions do not load it logs a warning, though nothing here needs them.
    """
    logger = logging.getLogger("xformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from xformers.ops import masked_matmul
        from xformers.sparse import BlockSparseTensor
    finally:
        logger.setLevel(level)
    return masked_matmul, BlockSparseTensor
