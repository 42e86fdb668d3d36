"""The cache folder on each system; a file that is written in full or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from platformdirs.macos import MacOS
from platformdirs.unix import Unix

from sparse_patterns.config import files
from sparse_patterns.config.files import CACHE_VARIABLE, cache_folder, whole_file


def test_the_variable_names_the_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == tmp_path
    monkeypatch.setenv("HOME", "/me")
    monkeypatch.setenv(CACHE_VARIABLE, "~/kept")
    assert cache_folder() == Path("/me/kept")


@pytest.mark.parametrize(
    ("system", "variables", "want"),
    [
        (Unix, {"XDG_CACHE_HOME": "/x"}, "/x/sparse-patterns"),
        (Unix, {}, "/me/.cache/sparse-patterns"),
        (MacOS, {}, "/me/Library/Caches/sparse-patterns"),
    ],
)
def test_the_users_cache_folder(
    monkeypatch: pytest.MonkeyPatch, system: type, variables: dict[str, str], want: str
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in {CACHE_VARIABLE: "", "HOME": "/me", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("platformdirs._set_platform_dir_class", lambda: system, raising=False)
    monkeypatch.setattr("platformdirs.PlatformDirs", system)
    assert cache_folder() == Path(want)


def test_a_file_is_whole_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    for text in ("old", "new"):
        with whole_file(path) as part:
            part.write_text(text)
            assert part.parent == path.parent
            assert not path.exists() or path.read_text() == "old"
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_an_error_inside_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with whole_file(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), whole_file(path):
        pass
    assert path.read_text() == "old"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill a process so")
def test_a_process_killed_while_it_writes_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    folder = Path(files.__file__).parent
    # The file alone is run: importing the package would take torch's seconds.
    code = (
        "import os, runpy, signal\n"
        f"whole_file = runpy.run_path({str(folder / 'files.py')!r})['whole_file']\n"
        f"with whole_file({str(path)!r}) as part:\n"
        "    part.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
