"""The paragraphs of a HotpotQA question as one sequence, with marks for titles and sentences."""

from __future__ import annotations

from collections.abc import Sequence

from datamodules.tasks.encoding import EncodedData
from datamodules.tasks.rows import Role, Tokens

__all__ = ["Page"]


class Page:
    """Paragraphs as far as they fit: `<t> title </t> sentence [sent] ... [/par]` each.

    What does not fit is left out by whole sentences, from the first that does not on.

    Attributes:
        text: Titles and sentences.
        tokens: Its tokens, with marks.
        facts: (title, sentence index) of each sentence.
        sentences: Token of the mark after each sentence.
        paragraphs: Token of the mark before each paragraph.
        paragraph_of: Number of the paragraph of each sentence.
        titles: Title of each paragraph.
        areas: Characters [start, stop) of each paragraph in the text.
        notes: Tells where something did not fit.

    Args:
        data: Makes the tokens.
        context: Titles and sentences of the paragraphs.
        room: Tokens there may be.
    """

    def __init__(
        self, data: EncodedData, context: Sequence[tuple[str, Sequence[str]]], room: int
    ) -> None:
        self.facts: list[tuple[str, int]] = []
        self.sentences: list[int] = []
        self.paragraphs: list[int] = []
        self.paragraph_of: list[int] = []
        self.titles: list[str] = []
        self.areas: list[tuple[int, int]] = []
        self.notes: list[str] = []
        self._data = data
        self._room = room
        self._parts: list[Tokens] = []
        self._size = 0
        self.text = ""
        for title, sentences in context:
            if not self._add(title, sentences):
                self.notes.append(f"paragraphs cut to max_length {data.max_length} tokens")
                break
        self.tokens = Tokens.joined(self._parts)

    def _add(self, title: str, sentences: Sequence[str]) -> bool:
        """Add a paragraph; return whether all of it fits."""
        data = self._data
        written = f"{title}\n"
        parts = [
            data.mark("<t>", Role.TITLE_MARK),
            self._placed(title, 0, Role.TITLE),
            data.mark("</t>", Role.TITLE),
        ]
        close = data.mark("[/par]", Role.PARAGRAPH_MARK)
        size = sum(map(len, parts)) + len(close)
        ends: list[int] = []
        for sentence in sentences:
            gap = " " if ends and not sentence[:1].isspace() else ""
            pieces = self._placed(sentence, len(written) + len(gap), Role.TEXT)
            if self._size + size + len(pieces) + 1 > self._room:
                break
            parts += [pieces, data.mark("[sent]", Role.SENTENCE_MARK)]
            size += len(pieces) + 1
            ends.append(self._size + size - len(close) - 1)
            written += gap + sentence
        whole = len(ends) == len(sentences) and self._size + size <= self._room
        if (sentences and not ends) or self._size + size > self._room:
            return whole
        self.sentences += ends
        self.facts += [(title, index) for index in range(len(ends))]
        self.paragraph_of += [len(self.titles)] * len(ends)
        self.paragraphs.append(self._size)
        self.titles.append(title)
        self.areas.append((len(self.text), len(self.text) + len(written)))
        self._parts += [*parts, close]
        self._size += size
        self.text += f"{written}\n\n"
        return whole

    def _placed(self, text: str, begin: int, role: Role) -> Tokens:
        """Return the tokens of a text that begins at a character of the paragraph."""
        tokens = self._data.placed_pieces(text, role)
        shift = len(self.text) + begin
        places = [(start + shift, stop + shift) for start, stop in tokens.offsets]
        return Tokens(tokens.ids, tokens.roles, places)
