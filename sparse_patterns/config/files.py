"""Where results are kept between runs, and how a file is written in full or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["CACHE_VARIABLE", "cache_folder", "whole_file"]

CACHE_VARIABLE = "SPARSE_PATTERNS_CACHE"
"""Environment variable that names the cache folder."""


def cache_folder() -> Path:
    """Return the folder of everything that is kept between runs; it may not exist yet.

    `$SPARSE_PATTERNS_CACHE` names it; by default it is `sparse-patterns` in the user's cache folder
    of the operating system (`$XDG_CACHE_HOME` or `~/.cache` on Linux).
    """
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("sparse-patterns", appauthor=False, opinion=False)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file in full or not at all: a reader sees the old content or the new one.

    The block writes to the path that it is given, in the same folder. When the block ends, that
    file is flushed to the disk and renamed; when it raises, or the process is killed, what was
    under the final name is untouched. The folder is made if there is none.

    Args:
        path: The final path.

    Yields:
        The path to write to.

    Raises:
        OSError: The folder or the file cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_native_id()}.part")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
