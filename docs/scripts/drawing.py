"""Draws a graph without circles as SVG: floors from top to bottom, every arrow leads downwards.

The same graph always gives the same text, so that a drawing can be compared with its source.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from textwrap import wrap

BETWEEN, GAP, MARGIN = 54, 26, 24
SWEEPS = 24


@dataclass(frozen=True)
class Box:
    """A box: a title in bold, lines below it, the colour inside."""

    title: str
    lines: tuple[str, ...]
    colour: str

    @classmethod
    def of(cls, title: str, words: Iterable[str], colour: str) -> Box:
        """A box with a list of words below its title, broken into short lines."""
        return cls(title, tuple(wrap(", ".join(words), 30)), colour)

    @property
    def width(self) -> int:
        """Width in pixels, with room for a wide font."""
        return max(9 * len(self.title), *(7 * len(line) for line in self.lines), 60) + 24

    @property
    def height(self) -> int:
        """Height in pixels."""
        return 32 + 15 * len(self.lines)


Edge = tuple[str, str]


def reachable(edges: set[Edge]) -> dict[str, set[str]]:
    """For each start of an edge, every name that its edges lead to, over others too."""
    found = {start: {end for first, end in edges if first == start} for start, _ in edges}
    for mid in found:
        for ends in found.values():
            if mid in ends:
                ends |= found[mid]
    return found


def without_circles(boxes: dict[str, Box], edges: set[Edge]) -> tuple[dict[str, Box], set[Edge]]:
    """Joins boxes that lead to each other, so that a circle shows as one box of several names."""
    to = reachable(edges)
    first = {name: name for name in boxes}
    for name in sorted(boxes):
        circle = {end for end in to.get(name, ()) if name in to.get(end, ())}
        first[name] = min({name} | circle)
    joined = {}
    for name, one in sorted(first.items()):
        titles = [joined[one].title] if one in joined else []
        lines = joined[one].lines if one in joined else ()
        box = boxes[name]
        joined[one] = Box(" + ".join([*titles, box.title]), lines + box.lines, box.colour)
    return joined, {(first[a], first[b]) for a, b in edges if first[a] != first[b]}


def without_detours(edges: set[Edge]) -> set[Edge]:
    """Leaves out every edge that follows from others (the transitive reduction)."""
    to = reachable(edges)
    return {
        (start, end)
        for start, end in edges
        if not any(end in to.get(mid, ()) for first, mid in edges if first == start)
    }


def draw(boxes: dict[str, Box], edges: set[Edge], dashed: set[Edge] = frozenset()) -> str:
    """The drawing as the text of an SVG file.

    Args:
        boxes: Every box, by its name.
        edges: Pairs of names, from the upper box to the lower one.
        dashed: Those of the edges whose line is broken.
    """
    floors, chains = _floors(boxes, edges)
    width = {name: boxes[name].width if name in boxes else 14 for row in floors for name in row}
    place = _places(floors, chains, width)
    left = min(place[name] - width[name] / 2 for name in width) - MARGIN
    right = max(place[name] + width[name] / 2 for name in width) + MARGIN
    head, foot, bottom = {}, {}, MARGIN - BETWEEN
    for row in floors:
        top = bottom + BETWEEN
        bottom = top + max(boxes[name].height for name in row if name in boxes)
        head |= dict.fromkeys(row, top)
        foot |= dict.fromkeys(row, bottom)

    size = f"{right - left:.0f} {bottom + MARGIN}"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" '
        f'width="{right - left:.0f}" font-family="DejaVu Sans, Verdana, sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>',
        '<rect width="100%" height="100%" rx="8" fill="#ffffff"/>',
    ]
    for edge in sorted(edges):
        points = [(place[name] - left, head[name], foot[name]) for name in chains[edge]]
        start = head[edge[0]] + boxes[edge[0]].height
        out.append(_arrow(points, start, edge in dashed))
    for name in sorted(boxes):
        out += _box(boxes[name], place[name] - left, head[name])
    return "\n".join([*out, "</svg>", ""])


def _floors(
    boxes: dict[str, Box], edges: set[Edge]
) -> tuple[list[list[str]], dict[Edge, list[str]]]:
    """Names on each floor, and the way of each edge through them.

    A box stands below all that lead to it. An edge over several floors gets a bend on each.
    """
    above = {name: {start for start, end in edges if end == name} for name in boxes}
    below = {name: {end for start, end in edges if start == name} for name in boxes}
    floor: dict[str, int] = {}
    while len(floor) < len(boxes):
        ready = [name for name in boxes if name not in floor and above[name] <= floor.keys()]
        floor |= {name: 1 + max((floor[n] for n in above[name]), default=-1) for name in ready}
    for name in boxes:  # what rests on nothing stands close to what it leads to
        if not above[name] and below[name]:
            floor[name] = min(floor[n] for n in below[name]) - 1
    floors: list[list[str]] = [[] for _ in range(max(floor.values()) + 1)]
    for name in sorted(boxes):
        floors[floor[name]].append(name)
    chains = {}
    for start, end in sorted(edges):
        bends = [f"{start} {end} {row}" for row in range(floor[start] + 1, floor[end])]
        for row, bend in enumerate(bends, floor[start] + 1):
            floors[row].append(bend)
        chains[start, end] = [start, *bends, end]
    return floors, chains


def _places(
    floors: list[list[str]], chains: dict[Edge, list[str]], width: dict[str, int]
) -> dict[str, float]:
    """The middle of every box and bend, near those of its neighbours, none on another."""
    links = [link for chain in chains.values() for link in pairwise(chain)]
    near: dict[str, list[str]] = {name: [] for row in floors for name in row}
    for a, b in links:
        near[a].append(b)
        near[b].append(a)
    up = {name: [n for n in near[name] if (n, name) in set(links)] for name in near}
    place = {name: 90.0 * number for row in floors for number, name in enumerate(row)}

    def crossings() -> int:
        return sum(
            (place[a] - place[c]) * (place[b] - place[d]) < 0
            for row in floors
            for a, b in links
            for c, d in links
            if a in row and c in row
        )

    best, fewest = dict(place), None
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        for row in floors if downwards else floors[::-1]:
            wish = {}
            for name in row:
                # The last sweeps look at both sides at once.
                side = near[name] if sweep > SWEEPS // 2 else up[name]
                if not downwards and sweep <= SWEEPS // 2:
                    side = [n for n in near[name] if n not in up[name]]
                wish[name] = sum(place[n] for n in side) / len(side) if side else place[name]
            row.sort(key=lambda name: (wish[name], name))
            _spread(row, wish, place, width)
        count = crossings()
        if fewest is None or count <= fewest:
            best, fewest = dict(place), count
    return best


def _spread(
    row: list[str], wish: dict[str, float], place: dict[str, float], width: dict[str, int]
) -> None:
    """Puts a floor's names in order, none on another, as near to their wishes as is quick."""
    at = None
    for before, name in pairwise([None, *row]):
        least = -1e9 if at is None else at + (width[before] + width[name]) / 2 + GAP  # type: ignore[index]
        at = place[name] = max(wish[name], least)
    shift = sum(wish[name] - place[name] for name in row) / len(row)
    for name in row:
        place[name] += shift


def _arrow(points: list[tuple[float, int, int]], start: int, dashed: bool) -> str:
    """A line from the height `start` through the bends to the head of the last point.

    A point is its place, and the upper and lower end of its floor: lines bend between floors.
    """
    (x, _, y), *rest = points
    path = [f"M{x:.0f} {start}L{x:.0f} {y}"]
    for number, (to, head, foot) in enumerate(rest):
        half = (head - y) / 2
        path.append(f"C{x:.0f} {y + half:.0f} {to:.0f} {head - half:.0f} {to:.0f} {head}")
        if number < len(rest) - 1:
            path.append(f"L{to:.0f} {foot}")
        x, y = to, foot
    dash = ' stroke-dasharray="6 4"' if dashed else ""
    return (
        f'<path d="{"".join(path)}" fill="none" stroke="#555" stroke-width="1.4"{dash} '
        'marker-end="url(#tip)"/>'
    )


def _box(box: Box, middle: float, top: int) -> list[str]:
    """The rectangle and the lines of a box."""
    out = [
        f'<rect x="{middle - box.width / 2:.0f}" y="{top}" width="{box.width}" '
        f'height="{box.height}" rx="6" fill="{box.colour}" stroke="#333"/>',
        f'<text x="{middle:.0f}" y="{top + 21}" text-anchor="middle" font-size="14" '
        f'font-weight="bold" fill="#111">{escape(box.title)}</text>',
    ]
    for number, line in enumerate(box.lines):
        out.append(
            f'<text x="{middle:.0f}" y="{top + 38 + 15 * number}" text-anchor="middle" '
            f'font-size="12" fill="#333">{escape(line)}</text>'
        )
    return out
