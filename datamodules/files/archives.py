"""The official files of a data set: in a folder, in an archive, or named one at a time."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from itertools import product
from lzma import LZMAError
from pathlib import Path

from datamodules.files.cache import cached_folder
from datamodules.files.documents import COMPRESSED, Document
from datamodules.files.locate import find_documents
from datamodules.files.splitting import SplitName

__all__ = ["Files", "open_folder", "split_files"]

Files = str | list[str] | None
"""Files, folders or globs of one split; None where `path` has them or there are none."""

_TAR = (".tar", ".tgz", ".tbz2", ".txz", *(".tar" + ending for ending in COMPRESSED))
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError, OSError)


def open_folder(path: str, cache: Path) -> Path:
    """Return a folder, that of an archive being unpacked into the cache once.

    Args:
        path: A folder, or a zip or tar archive, compressed or not.
        cache: Where archives are unpacked.

    Raises:
        FileNotFoundError: There is nothing of this name.
        ValueError: It is a file but no archive, or a broken one.
    """
    given = Path(path).expanduser()
    if given.is_dir():
        return given
    if not given.is_file():
        raise FileNotFoundError(f"path: there is no {path!r} (a folder or an archive is expected)")
    if not _is_archive(given):
        raise ValueError(
            f"path: {path!r} is neither a folder nor an archive; name a single file as that of its "
            "split: train, val or test"
        )
    key = {"unpacked": Document(given, given.name).digest(cache)}
    return cached_folder(cache, "unpacked", key, lambda folder: _unpack(given, folder))


def split_files(
    path: str | None,
    given: Mapping[SplitName, Files],
    official: Mapping[SplitName, Sequence[str]],
    cache: Path,
) -> dict[SplitName, list[Document]]:
    """Return the files of each split.

    Args:
        path: A folder or archive with the official names, or None; or a single file, which is of
            the split whose official name it has, and of the training split under any other name.
        given: Files that the user names; they go before what `path` has.
        official: Names and globs of each split's files, relative to `path` or a folder at most two
            levels below, the first one that is there being taken; compressed files may have their
            suffix appended.
        cache: Where archives are unpacked.

    Raises:
        FileNotFoundError: A named file is missing, or `path` has nothing of any split.
        ValueError: Neither `path` nor a split is given, or a file is in two splits.
    """
    found: dict[SplitName, list[Document]] = {}
    if path is not None and _is_single(path):
        split = _split_named(path, official)
        if given.get(split):
            raise ValueError(
                f"path: {path!r} is a single file, of the {split} split, which {split} names, too: "
                f"{given[split]!r}; give one of the two"
            )
        path, given = None, {**given, split: path}
    folder = open_folder(path, cache) if path is not None else None
    for split, patterns in official.items():
        if given.get(split):
            found[split] = find_documents(_unpacked(given[split], cache))
        elif folder is not None:
            documents = _official(folder, patterns)
            if documents:
                found[split] = documents
    if not found and path is None:
        raise ValueError("name the files: path (a folder or an archive), or train, val and test")
    if not found:
        wanted = "; ".join(f"{split}: {' or '.join(names)}" for split, names in official.items())
        raise FileNotFoundError(f"path: {path!r} has none of the official files ({wanted})")
    owner: dict[tuple[Path, str | None], SplitName] = {}
    for split, documents in found.items():
        for document in documents:
            other = owner.setdefault((document.path.resolve(), document.member), split)
            if other != split:
                raise ValueError(f"{document} is in the splits {other} and {split}")
    return found


def _unpacked(files: Files, cache: Path) -> list[str]:
    """Replace tar archives by their folders."""
    entries = [files] if isinstance(files, str) else list(files or ())
    return [
        str(open_folder(entry, cache)) if entry.endswith(_TAR) and Path(entry).is_file() else entry
        for entry in entries
    ]


def _official(folder: Path, patterns: Sequence[str]) -> list[Document]:
    # The first level that has any: of copies in several folders the outermost is meant. Folders are
    # not searched to the bottom, since evidence may be a million files.
    for pattern, above in product(patterns, ("", "*/", "*/*/")):
        found = {
            file: file.relative_to(folder)
            for ending in ("", *COMPRESSED)
            for file in sorted(folder.glob(above + pattern + ending))
            if file.is_file()
        }
        visible = [
            Document(file, name.as_posix())
            for file, name in found.items()
            if not any(part.startswith(".") for part in name.parts)
        ]
        if visible:
            return visible if any(sign in pattern for sign in "*?[") else visible[:1]
    return []


def _is_single(path: str) -> bool:
    file = Path(path).expanduser()
    return file.is_file() and not _is_archive(file)


def _split_named(path: str, official: Mapping[SplitName, Sequence[str]]) -> SplitName:
    """Return the split whose official name a file has, compressed or not; else training."""
    names = {Path(path).name}
    names |= {name.removesuffix(ending) for name in names for ending in COMPRESSED}
    for split, patterns in official.items():
        last = {pattern.rpartition("/")[2] for pattern in patterns}
        # A glob such as `*.txt` is no name.
        if any(fnmatch(name, one) for name in names for one in last if one[0] not in "*?["):
            return split
    return "train"


def _is_archive(path: Path) -> bool:
    return path.suffix == ".zip" or path.name.endswith(_TAR)


def _unpack(archive: Path, folder: Path) -> None:
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(folder)
            return
        with tarfile.open(archive) as opened_tar:
            _extract(opened_tar, folder)
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk, not the archive
        shutil.rmtree(folder, ignore_errors=True)
        raise ValueError(f"{archive} cannot be unpacked: {error}") from error


def _extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Unpack, and refuse members that would be written elsewhere."""
    if hasattr(tarfile, "data_filter"):
        archive.extractall(folder, filter="data")
        return
    # Python before 3.10.12, 3.11.4 and 3.12 has no filters.
    root = folder.resolve()
    for member in archive:
        plain = member.isfile() or member.isdir()
        if not plain or not (root / member.name).resolve().is_relative_to(root):
            raise tarfile.ExtractError(f"{member.name!r} is a link, or would be written elsewhere")
    archive.extractall(folder)
