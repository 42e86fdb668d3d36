"""The page of all rows, made from protocols and records alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from evidence import plots, protocol, records
from evidence.protocol import Metric, Protocol, Row
from evidence.records import Record
from evidence.statistics import Difference, difference, spread

DOCS = Path(__file__).parents[1] / "docs"
NOISE = "not told apart from noise"

HEAD = """\
# Evidence

What a pattern buys, in small: each claim of the Longformer paper (arXiv 2004.05150), and some
more, with a counterpart that runs on two CPU cores. This page is made from the records in
`evidence/results` by `python -m evidence page`; a test compares the two.

    make evidence RUN=NAME                          # measure a row, or what is missing of it
    make evidence RUN=NAME ARGS=--pilot             # one arm with one seed: how long does it take?
    make evidence RUN=NAME ARGS="--seeds 0 --again" # does it give the recorded figures again?

How to read it:

- A protocol was written before its row was run, and what came out is kept, whatever its sign.
- Tables give mean ± standard deviation over seeds. A seed decides the first weights, dropout, and
  what is drawn from the data; two arms of a seed share all that they can share.
- A difference is the mean over seeds of arm minus baseline, seed by seed, with its 95 % interval by
  Student's t. Where the interval contains 0, the table says "not told apart from noise". Intervals
  are not corrected for the number of comparisons: of twenty around nothing, one leaves 0 out.
- "What came out" is written by hand once a row is complete; everything else under a protocol is
  made from the records.
- Figures of the paper are of models hundreds of times larger. They stand beside for the sign of a
  difference, not for its size.
- One thread, deterministic algorithms: on the same machine, at the commit that its record names
  (`git worktree add ../then COMMIT`), a run gives the same figures bit for bit. Kernels of later
  commits may add up in another order; `--again` tells the difference, and the spread of the seeds.
  Times and memory depend on the machine and on what else it does.
"""

Records = Mapping[tuple[str, int], Record]


def write(results: Path = records.RESULTS, docs: Path = DOCS) -> None:
    """Write the page and the plots of all rows that have records."""
    rows = _rows(results)
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "evidence.md").write_text(text(rows), encoding="utf-8")
    for row, found in rows:
        if found:
            plots.draw(row.protocol, found, _plot(docs, row.protocol))


def wrong(results: Path = records.RESULTS, docs: Path = DOCS) -> list[str]:
    """Return in words where the page differs from what the records give; [] where it agrees.

    Raises:
        ValueError: A record cannot be read, or does not fit its protocol.
    """
    rows = _rows(results)
    found = [line for row, there in rows for line in _unequal(row.protocol, there)]
    found += [line for row, there in rows for line in _read_too_soon(row, there)]
    path = docs / "evidence.md"
    now = path.read_text("utf-8").splitlines() if path.is_file() else []
    then = text(rows).splitlines()
    if now != then:
        places = [n for n, (a, b) in enumerate(zip(now, then, strict=False)) if a != b]
        place = places[0] if places else min(len(now), len(then))
        shown = [lines[place] if place < len(lines) else "nothing" for lines in (now, then)]
        found.append(f"{path}, line {place + 1}: {shown[0]!r}, the records give {shown[1]!r}")
    for row, there in rows:
        if there and not _plot(docs, row.protocol).is_file():
            found.append(f"{_plot(docs, row.protocol)} is missing")
    return found


def changed_plots(results: Path = records.RESULTS, docs: Path = DOCS) -> list[str]:
    """Return the plots that differ from those that this version of matplotlib draws."""
    found = []
    with TemporaryDirectory() as folder:
        for row, there in _rows(results):
            one = row.protocol
            if there:
                fresh = Path(folder) / f"{one.name}.svg"
                plots.draw(one, there, fresh)
                if fresh.read_bytes() != _plot(docs, one).read_bytes():
                    found.append(one.name)
    return found


def text(rows: list[tuple[Row, Records]]) -> str:
    """Return the page."""
    parts = [HEAD, *("\n".join(_section(row, found)) + "\n" for row, found in rows)]
    return "\n".join(parts)


def _rows(results: Path) -> list[tuple[Row, Records]]:
    rows = [protocol.row(name) for name in protocol.names()]
    return [(row, records.read(results, row.protocol)) for row in rows]


def _plot(docs: Path, one: Protocol) -> Path:
    return docs / "evidence" / f"{one.name}.svg"


def _unequal(one: Protocol, found: Records) -> Iterator[str]:
    for name in one.same:
        for seed in one.seeds:
            values = {f.figures[name] for (_, s), f in found.items() if s == seed}
            if len(values) > 1:
                yield f"{one.name}, seed {seed}: {name} must be equal in all arms, got {values}"


def _heading(name: str) -> str:
    words = name.capitalize().split("-")
    return " ".join("LM" if word == "lm" else word for word in words)


def _read_too_soon(row: Row, found: Records) -> Iterator[str]:
    many = _many(row.protocol)
    if row.reading and len(found) < many:
        yield f"{row.protocol.name} has a reading after {len(found)} of {many} runs"


def _many(one: Protocol) -> int:
    return len(one.arms) * len(one.seeds)


def _section(row: Row, found: Records) -> Iterator[str]:
    one = row.protocol
    yield f"## {_heading(one.name)}"
    yield f"\n**{one.question}** Row `{one.name}`.\n"
    yield f"- Protocol: {one.setup}"
    yield f"- Data: {one.data}"
    yield f"- The paper: {one.paper}"
    yield f"- Shows: {one.shows}"
    yield f"- Does not show: {one.does_not_show}\n"
    if not found:
        yield "Not run yet."
        return
    if len(found) < _many(one):
        yield f"Not complete yet: {len(found)} of {_many(one)} runs.\n"
    yield from _table(one, found)
    yield from _differences(one, found)
    if row.reading:
        yield f"\nWhat came out: {row.reading}"
    yield f"\n![{one.name}](evidence/{one.name}.svg)\n"
    yield _cost(found)


def _table(one: Protocol, found: Records) -> Iterator[str]:
    heads = ["arm", "seeds", *(metric.label for metric in one.metrics)]
    yield f"| {' | '.join(heads)} |"
    yield f"|---|{'---:|' * (len(heads) - 1)}"
    for arm in one.arms:
        seeds = [seed for seed in one.seeds if (arm, seed) in found]
        if not seeds:
            yield f"| {arm} | 0 |{' not run |' * len(one.metrics)}"
            continue
        cells = []
        for metric in one.metrics:
            value = spread([found[arm, seed].figures[metric.name] for seed in seeds])
            cells.append(_number(value.mean, metric))
            if value.deviation is not None:
                cells[-1] += f" ± {_number(value.deviation, metric)}"
        yield f"| {arm} | {len(seeds)} | {' | '.join(cells)} |"


def _differences(one: Protocol, found: Records) -> Iterator[str]:
    lines = []
    for arm, baseline in one.comparisons:
        seeds = [s for s in one.seeds if (arm, s) in found and (baseline, s) in found]
        for metric in (metric for metric in one.metrics if seeds and metric.compared):
            values = [[found[a, s].figures[metric.name] for s in seeds] for a in (arm, baseline)]
            gap = difference(*values)
            lines.append(
                f"| {arm} - {baseline} | {metric.label} | {_signed(gap.mean, metric)} "
                f"| {_interval(gap, metric)} | {verdict(gap)} |"
            )
    if lines:
        yield "\n| compared | figure | difference | 95 % interval | |"
        yield "|---|---|---:|---:|---|"
        yield from lines


def verdict(gap: Difference) -> str:
    """Return what a difference says, by rule: lower, higher, equal, or nothing."""
    if gap.low is None:
        return "one seed: no interval"
    if gap.low == gap.high == 0:
        return "equal"
    if not gap.told_apart:
        return NOISE
    return "lower" if gap.mean < 0 else "higher"


def _interval(gap: Difference, metric: Metric) -> str:
    if gap.low is None or gap.high is None:
        return "—"
    return f"{_signed(gap.low, metric)} to {_signed(gap.high, metric)}"


def _cost(found: Records) -> str:
    seconds = sum(record.processor_seconds for record in found.values())
    machines = sorted({str(record.about["processor"]) for record in found.values()})
    versions = sorted({str(record.about["torch"]) for record in found.values()})
    return (
        f"{len(found)} runs, {seconds / 60:.0f} minutes of one core of {', '.join(machines)}; "
        f"torch {', '.join(versions)}."
    )


def _number(value: float, metric: Metric) -> str:
    return f"{value:,.{metric.digits}f}"


def _signed(value: float, metric: Metric) -> str:
    return f"{value:+,.{metric.digits}f}"
