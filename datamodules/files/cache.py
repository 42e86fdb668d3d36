"""A folder of results on disk: keyed by everything they depend on, whole or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparse_patterns.config.files import cache_folder

__all__ = ["cache_root", "cached_folder", "digest_of", "remembered"]

_LEFTOVER_S = 24 * 3600


def cache_root(cache_dir: str | None = None) -> Path:
    """Return `cache_dir`, or `sparse_patterns.config.files.cache_folder()` where it is None."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    return cache_folder()


def digest_of(key: Any) -> str:
    """Return 32 hexadecimal digits, a hash of plain data."""
    text = json.dumps(key, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def cached_folder(root: Path, name: str, key: Any, fill: Callable[[Path], None]) -> Path:
    """Return the folder that `fill` writes, made once for each key.

    It is filled under another name and renamed when complete, so that a process that is killed, or
    two that work at the same time, never leave a part of one.

    Args:
        root: Where such folders live.
        name: Beginning of the folder's name, for people.
        key: Plain data: everything that the contents depend on.
        fill: Writes the contents into the empty folder it is given.

    Raises:
        OSError: The folder cannot be written; the message names it.
    """
    final = root / f"{name}-{digest_of(key)}"
    if final.is_dir():
        return final
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
    except OSError as error:
        raise _cannot_write(root, error) from error
    try:
        fill(temporary)
        _flush(temporary)
        os.replace(temporary, final)
    except OSError as error:
        if final.is_dir():  # another process was faster
            return final
        elsewhere = error.filename is not None and not str(error.filename).startswith(str(root))
        if error.errno is None or elsewhere:
            raise
        raise _cannot_write(root, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def remembered(root: Path, key: Any, compute: Callable[[], str]) -> str:
    """Return `compute()`, from a file in `root` after the first time."""

    def fill(folder: Path) -> None:
        (folder / "value").write_text(compute())

    return (cached_folder(root / "values", "value", key, fill) / "value").read_text()


def _flush(folder: Path) -> None:
    """Put the contents on the disk, before the new name can get there."""
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _sweep(root: Path) -> None:
    """Remove what killed processes have left, old enough that no process still writes it."""
    for path in root.glob(".*"):
        try:
            newest = max(p.stat().st_mtime for p in (path, *path.glob("*")))
        except OSError:
            continue
        if path.is_dir() and time.time() - newest > _LEFTOVER_S:
            shutil.rmtree(path, ignore_errors=True)


def _cannot_write(root: Path, error: OSError) -> OSError:
    reason = error.strerror or str(error)
    message = f"cannot write the cache in {root}: {reason}; choose another cache_dir"
    return OSError(error.errno, message)
