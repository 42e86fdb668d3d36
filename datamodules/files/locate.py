"""Finding the texts a user names: files, folders, globs, and the archives of well-known corpora."""

from __future__ import annotations

import glob
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.files.documents import COMPRESSED, Document

__all__ = ["find_corpus", "find_documents"]


def find_documents(files: str | Sequence[str]) -> list[Document]:
    """Return the texts that `files` name, each once, in an order that does not depend on the disk.

    Args:
        files: Files, folders (everything below them except hidden files) and globs (``**`` goes
            through folders). The members of a zip archive are texts of their own.

    Raises:
        FileNotFoundError: An entry names nothing.
        ValueError: No entry is given, a named file is empty, or an archive is broken.
    """
    entries = [files] if isinstance(files, str) else list(files)
    if not entries:
        raise ValueError("files must name at least one file, folder or glob, got none")
    found: dict[tuple[Path, str | None], Document] = {}
    for entry in entries:
        documents = list(_named_by(entry))
        if not documents:
            raise FileNotFoundError(
                f"files: {entry!r} names no text (a file, a folder with files, or a glob such as "
                f"'data/**/*.txt'); looked from {os.getcwd()}"
            )
        for document in documents:
            found.setdefault((document.path.resolve(), document.member), document)
    return list(found.values())


def find_corpus(path: str, name: str, where_to_get: str) -> Document:
    """Return the text of a well-known corpus.

    Args:
        path: The file, plain, compressed, or in a zip archive that has a member `name`; or the
            folder that has it as `name`, with or without such an ending.
        name: The official name of the file.
        where_to_get: Ends the message when there is none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, or the archive is broken or without the member.
    """
    given = Path(path).expanduser()
    candidates = [given]
    if given.is_dir():
        candidates = [given / (name + ending) for ending in ("", ".zip", *COMPRESSED)]
    existing = next((c for c in candidates if c.is_file()), None)
    if existing is None:
        looked_for = " or ".join(str(c) for c in candidates)
        raise FileNotFoundError(f"path: there is no {looked_for}; {where_to_get}")
    _refuse_empty(existing)
    if existing.suffix != ".zip":
        return Document(existing, name)
    members = _members(existing)
    for member in members:
        if Path(member).name == name:
            return Document(existing, name, member)
    raise ValueError(
        f"{existing} has no member {name!r}; it holds {', '.join(members) or 'nothing'}"
    )


def _named_by(entry: str) -> Iterator[Document]:
    path = Path(entry).expanduser()
    if path.is_file():
        _refuse_empty(path)
        yield from _texts(path, path.as_posix() if not path.is_absolute() else path.name)
    elif path.is_dir():
        for file in sorted(path.rglob("*")):
            relative = file.relative_to(path)
            if not any(part.startswith(".") for part in relative.parts):
                yield from _texts(file, relative.as_posix())
    elif glob.has_magic(entry):
        plain = 0
        while not glob.has_magic(path.parts[plain]):
            plain += 1
        root = Path(*path.parts[:plain])
        for name in sorted(glob.glob(str(path), recursive=True)):
            yield from _texts(Path(name), Path(name).relative_to(root).as_posix())


def _texts(file: Path, name: str) -> Iterator[Document]:
    if not file.is_file() or file.stat().st_size == 0:
        return
    if file.suffix == ".zip":
        for member in sorted(_members(file)):
            yield Document(file, f"{name}:{member}", member)
    else:
        yield Document(file, name)


def _members(file: Path) -> list[str]:
    try:
        with zipfile.ZipFile(file) as archive:
            return [m.filename for m in archive.infolist() if not m.is_dir() and m.file_size]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{file} is not a zip archive: {error}") from error


def _refuse_empty(path: Path) -> None:
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
