"""Cached folders are whole or absent, whatever happens to the process that writes them."""

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from datamodules.files.cache import cache_root, cached_folder, remembered
from tests.children import start_program


def test_filled_once_for_each_key(tmp_path: Path) -> None:
    calls = []

    def fill(folder: Path) -> None:
        calls.append(folder)
        (folder / "a").write_text("content")

    first = cached_folder(tmp_path, "x", {"key": 1}, fill)
    assert cached_folder(tmp_path, "x", {"key": 1}, fill) == first
    assert cached_folder(tmp_path, "x", {"key": 2}, fill) != first
    assert len(calls) == 2
    assert (first / "a").read_text() == "content"


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "a").write_text("half")
        raise ValueError("bad text")

    with pytest.raises(ValueError, match="bad text"):
        cached_folder(tmp_path, "x", 1, fill)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"the cache in .*No space left.*another cache_dir"):
        cached_folder(tmp_path, "x", 1, fill)
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_source_is_not_blamed_on_the_cache(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere") as caught:
        cached_folder(tmp_path, "x", 1, lambda _: Path("elsewhere").read_text() and None)
    assert "cache" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"the cache in .*file/below.*choose another cache_dir"):
        cached_folder(tmp_path / "file" / "below", "x", 1, lambda _: None)


def test_a_faster_process_wins(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "a").write_text("slow")
        if not other:
            other.append(True)
            cached_folder(tmp_path, "x", 1, lambda f: (f / "a").write_text("fast") and None)

    other: list[bool] = []
    final = cached_folder(tmp_path, "x", 1, fill)
    assert (final / "a").read_text() == "fast"
    assert [p.name for p in tmp_path.iterdir()] == [final.name]


@pytest.mark.slow
def test_a_killed_process_leaves_no_broken_cache(tmp_path: Path) -> None:
    root = tmp_path / "root"
    code = f"""
import os, signal
from pathlib import Path
from datamodules.files.cache import cached_folder
def fill(folder):
    (folder / "a").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
cached_folder(Path({str(root)!r}), "x", 1, fill)
"""
    program = tmp_path / "program.py"
    program.write_text(code)
    log = tmp_path / "log"
    child = start_program([str(program)], tmp_path, os.environ, str(log))
    child.join(120)
    assert child.exitcode == -signal.SIGKILL, log.read_text()
    (left,) = root.iterdir()
    assert left.name.startswith(".x-")
    final = cached_folder(root, "x", 1, lambda f: (f / "a").write_text("whole") and None)
    assert (final / "a").read_text() == "whole"
    # It may still be at work, for all we know, until it has been silent for long.
    assert left.exists()
    long_ago = time.time() - 3 * 24 * 3600
    for path in (left / "a", left):
        os.utime(path, (long_ago, long_ago))
    cached_folder(root, "x", 2, lambda _: None)
    assert not left.exists()


def test_remembered_computes_once(tmp_path: Path) -> None:
    calls = []
    for _ in range(2):
        assert remembered(tmp_path, "k", lambda: calls.append(1) or "value") == "value"
    assert len(calls) == 1


def test_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPARSE_PATTERNS_CACHE", str(tmp_path / "one"))
    assert cache_root() == tmp_path / "one"
    assert cache_root(str(tmp_path)) == tmp_path
