"""Texts in the form in which they are compared, with the way back to the characters as they are."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["Folded"]

# Where something may change: signs outside of ASCII, with the letter that an accent belongs to.
_FOREIGN = re.compile(r"[\x00-\x7f]?[^\x00-\x7f]+")
# A capital I with a dot in lower case is an i with one more dot.
_DOTTED_I = "i\u0307"


class Folded:
    """A text in lower case and composed (NFC), with the place of each character in the original.

    A letter and the accents that follow it are one unit: what is composed of them, and what becomes
    longer in lower case ("İ"), begins and ends with them.

    Attributes:
        text: What is compared. Letters of ASCII keep their case.

    Args:
        text: The original.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._begins: list[int] | None = None
        if text.isascii():
            return
        parts: list[str] = []
        begins: list[int] = []
        stops: list[int] = []
        done = 0
        for match in _FOREIGN.finditer(text):
            parts.append(text[done : match.start()])
            begins += range(done, match.start())
            stops += range(done + 1, match.start() + 1)
            done = match.start()
            for unit in _units(match[0]):
                folded = _fold(unit)
                parts.append(folded)
                begins += [done] * len(folded)
                done += len(unit)
                stops += [done] * len(folded)
        parts.append(text[done:])
        begins += range(done, len(text))
        stops += range(done + 1, len(text) + 1)
        self.text = "".join(parts)
        self._begins, self._stops = begins, stops

    def span(self, start: int, stop: int) -> tuple[int, int] | None:
        """Return the characters [start, stop) of the original; None if they part a unit.

        Args:
            start: The first character in `text`.
            stop: The one after the last, later than `start`.
        """
        begins = self._begins
        if begins is None:
            return start, stop
        parts_first = start > 0 and begins[start - 1] == begins[start]
        parts_last = stop < len(begins) and begins[stop] == begins[stop - 1]
        return None if parts_first or parts_last else (begins[start], self._stops[stop - 1])


def _units(text: str) -> list[str]:
    """Cut a text before each character that is not part of the letter before it."""
    units: list[str] = []
    for sign in text:
        if units and (unicodedata.combining(sign) or _joins(units[-1], sign)):
            units[-1] += sign
        else:
            units.append(sign)
    return units


def _joins(unit: str, sign: str) -> bool:
    """Return whether a sign that is no accent is composed with what is before it, as in Hangul."""
    whole = unicodedata.normalize("NFC", unit + sign)
    return len(whole) < len(unicodedata.normalize("NFC", unit) + unicodedata.normalize("NFC", sign))


def _fold(unit: str) -> str:
    lower = unicodedata.normalize("NFC", unicodedata.normalize("NFC", unit).lower())
    return lower.replace(_DOTTED_I, "i")
