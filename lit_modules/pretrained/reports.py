"""What loading and lengthening did, for the user to read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["BackboneReport", "LoadReport", "LongReport"]


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor of a checkpoint; printed, it is a short table.

    Attributes:
        source: Where the weights come from.
        matched: Names of the encoder's parameters, all of which were filled.
        missing: Optional parts that the checkpoint does not have, and the encoder neither.
        left_over: Names in the checkpoint that the encoder has no use for: heads of tasks.
        buffers: Names of constants in the checkpoint, which are computed here.
        prefix: The text before the encoder's names.
        renamed: Number of names in an old spelling.
        folder: Folder of the files, None for a state dict.
    """

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...] = ()
    left_over: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    prefix: str = ""
    renamed: int = 0
    folder: Path | None = field(default=None, repr=False)

    def __str__(self) -> str:
        lines = [
            f"loaded     {self.source}" + (f" (prefix {self.prefix!r})" if self.prefix else ""),
            f"matched    {len(self.matched)} tensors, all of the encoder",
            f"missing    {', '.join(self.missing) or 'nothing'}",
            f"left over  {', '.join(self.left_over) or 'nothing'}",
        ]
        if self.renamed:
            lines.append(f"renamed    {self.renamed} old spellings")
        return "\n".join(lines)


@dataclass(frozen=True)
class LongReport:
    """How an encoder was made long; printed, it is a short table.

    Attributes:
        source_length: Tokens of the longest text before.
        max_length: Tokens of the longest text now.
        copies: Whole copies of the positions.
        remainder: Positions of the last, partial copy.
        special: Rows before the first position.
        pattern: What attends to what, by its `repr`.
        global_projections: "copied" from the others, or "kept" where there were some.
        loaded: How the encoder before was loaded, if it was.
    """

    source_length: int
    max_length: int
    copies: int
    remainder: int
    special: int
    pattern: str
    global_projections: str
    loaded: LoadReport | None = None

    @property
    def folder(self) -> Path | None:
        """Folder of the files of the encoder before."""
        return self.loaded.folder if self.loaded is not None else None

    def __str__(self) -> str:
        rest = f" and {self.remainder} more" if self.remainder else ""
        lines = [str(self.loaded)] if self.loaded is not None else []
        lines += [
            f"positions  {self.source_length} made {self.max_length}: "
            f"{self.copies} copies{rest}, after {self.special} special rows",
            f"pattern    {self.pattern}",
            f"global     projections {self.global_projections}",
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class BackboneReport:
    """How an encoder was built for a data set; printed, it is a short table.

    Attributes:
        loaded: How the pretrained weights were loaded, None without any.
        changes: What was changed about them, a line each.
    """

    loaded: LoadReport | None
    changes: tuple[str, ...] = ()

    @property
    def folder(self) -> Path | None:
        """Folder of the files of the pretrained encoder."""
        return self.loaded.folder if self.loaded is not None else None

    def __str__(self) -> str:
        lines = [str(self.loaded)] if self.loaded is not None else []
        return "\n".join([*lines, *self.changes])
