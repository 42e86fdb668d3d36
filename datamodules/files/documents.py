"""Texts on disk: a file or a part of one, compressed or not, read in pieces."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fsspec.core import OpenFile
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.zip import ZipFileSystem

from datamodules.files.cache import remembered

__all__ = ["COMPRESSED", "PIECE", "Document", "Section"]

PIECE = 1 << 20
"""Bytes that are read at a time."""

_CODECS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz"}

COMPRESSED = tuple(_CODECS)
"""Endings of files that are decompressed while they are read."""

_BROKEN = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zipfile.BadZipFile, zlib.error)

# Files whose digest takes long enough to be worth remembering.
_LARGE = 1 << 26
# A file younger than this might still change without a new time stamp.
_SETTLED_S = 2.0


@dataclass(frozen=True)
class Document:
    """One text, in a file of its own or in a zip archive.

    Attributes:
        path: The file on disk.
        name: What it is called in the corpus, independent of its place on this machine.
        member: The name within a zip archive.
    """

    path: Path
    name: str
    member: str | None = None

    def __str__(self) -> str:
        return f"{self.path}" if self.member is None else f"{self.path}:{self.member}"

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Read bytes `start` to `stop` of the text, decompressed, at most `PIECE` at a time.

        Raises:
            ValueError: The file is not of the kind of its suffix, or cut short.
        """
        try:
            with self._open() as file:
                file.seek(start)
                left = stop - start if stop is not None else None
                while piece := file.read(PIECE if left is None else min(PIECE, left)):
                    yield piece
                    if left is not None:
                        left -= len(piece)
        except _BROKEN as error:
            raise ValueError(f"{self} cannot be decompressed: {error}") from error
        except OSError as error:
            # bz2 reports bad data in this way, without a file name.
            if error.filename is None and error.errno is None:
                raise ValueError(f"{self} cannot be decompressed: {error}") from error
            raise

    def size(self, cache: Path) -> int:
        """Return the bytes of the text, decompressed; `cache` remembers what is slow to find."""
        if self.member is not None:
            with zipfile.ZipFile(self.path) as archive:
                return archive.getinfo(self.member).file_size
        if self.path.suffix not in _CODECS:
            return self.path.stat().st_size
        key = {"size of": self.digest(cache)}
        return int(remembered(cache, key, lambda: str(sum(map(len, self.pieces())))))

    def digest(self, cache: Path) -> str:
        """Return a hash of the contents; `cache` remembers those of large files."""
        stat = self.path.stat()
        settled = time.time() - stat.st_mtime > _SETTLED_S
        if stat.st_size < _LARGE or not settled:
            found = self._hash()
        else:
            key = {"digest of": [str(self.path.resolve()), stat.st_size, stat.st_mtime_ns]}
            found = remembered(cache, key, self._hash)
        return found if self.member is None else f"{found}:{self.member}"

    def _hash(self) -> str:
        """Hash the file as it is on the disk, not decompressed."""
        found = hashlib.blake2b(digest_size=16)
        with self.path.open("rb") as file:
            while piece := file.read(PIECE):
                found.update(piece)
        return found.hexdigest()

    def _open(self) -> AbstractContextManager[IO[bytes]]:
        # Made of its parts and not of a URL, in which signs of a file's name have a meaning.
        opened: AbstractContextManager[IO[bytes]]
        if self.member is not None:
            opened = OpenFile(ZipFileSystem(str(self.path)), self.member)
        else:
            codec = _CODECS.get(self.path.suffix)
            opened = OpenFile(LocalFileSystem(), str(self.path), compression=codec)
        return opened


@dataclass(frozen=True)
class Section:
    """A part of a document: bytes `start` to `stop`, or to the end where `stop` is None."""

    document: Document
    start: int = 0
    stop: int | None = None

    def pieces(self) -> Iterator[bytes]:
        """Read the section, at most `PIECE` bytes at a time."""
        return self.document.pieces(self.start, self.stop)
