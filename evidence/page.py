"""The page of all rows, made from protocols and records alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from evidence import plots, protocol, records
from evidence.protocol import Metric, Protocol
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
- Figures of the paper are of models hundreds of times larger. They stand beside for the sign of a
  difference, not for its size.
- One thread, deterministic algorithms: on the same machine a run gives the same figures bit for
  bit. Times and memory depend on the machine and on what else it does.
"""

Records = Mapping[tuple[str, int], Record]


def write(results: Path = records.RESULTS, docs: Path = DOCS) -> None:
    """Write the page and the plots of all rows that have records."""
    rows = _rows(results)
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "evidence.md").write_text(text(rows), encoding="utf-8")
    for one, found in rows:
        if found:
            plots.draw(one, found, _plot(docs, one))


def wrong(results: Path = records.RESULTS, docs: Path = DOCS) -> list[str]:
    """Return in words where the page differs from what the records give; [] where it agrees.

    Raises:
        ValueError: A record cannot be read, or does not fit its protocol.
    """
    rows = _rows(results)
    found = [line for one, there in rows for line in _unequal(one, there)]
    path = docs / "evidence.md"
    now = path.read_text("utf-8").splitlines() if path.is_file() else []
    then = text(rows).splitlines()
    if now != then:
        places = [n for n, (a, b) in enumerate(zip(now, then, strict=False)) if a != b]
        place = places[0] if places else min(len(now), len(then))
        shown = [lines[place] if place < len(lines) else "nothing" for lines in (now, then)]
        found.append(f"{path}, line {place + 1}: {shown[0]!r}, the records give {shown[1]!r}")
    for one, there in rows:
        if there and not _plot(docs, one).is_file():
            found.append(f"{_plot(docs, one)} is missing")
    return found


def changed_plots(results: Path = records.RESULTS, docs: Path = DOCS) -> list[str]:
    """Return the plots that differ from those that this version of matplotlib draws."""
    found = []
    with TemporaryDirectory() as folder:
        for one, there in _rows(results):
            if there:
                fresh = Path(folder) / f"{one.name}.svg"
                plots.draw(one, there, fresh)
                if fresh.read_bytes() != _plot(docs, one).read_bytes():
                    found.append(one.name)
    return found


def text(rows: list[tuple[Protocol, Records]]) -> str:
    """Return the page."""
    parts = [HEAD, *("\n".join(_section(one, found)) + "\n" for one, found in rows)]
    return "\n".join(parts)


def _rows(results: Path) -> list[tuple[Protocol, Records]]:
    protocols = [protocol.row(name).protocol for name in protocol.names()]
    return [(one, records.read(results, one)) for one in protocols]


def _plot(docs: Path, one: Protocol) -> Path:
    return docs / "evidence" / f"{one.name}.svg"


def _unequal(one: Protocol, found: Records) -> Iterator[str]:
    for name in one.same:
        for seed in one.seeds:
            values = {f.figures[name] for (_, s), f in found.items() if s == seed}
            if len(values) > 1:
                yield f"{one.name}, seed {seed}: {name} must be equal in all arms, got {values}"


def _section(one: Protocol, found: Records) -> Iterator[str]:
    yield f"## {one.name.replace('-', ' ').capitalize()}"
    yield f"\n**{one.question}** Row `{one.name}`.\n"
    yield f"- Protocol: {one.setup}"
    yield f"- Data: {one.data}"
    yield f"- The paper: {one.paper}"
    yield f"- Shows: {one.shows}"
    yield f"- Does not show: {one.does_not_show}\n"
    if not found:
        yield "Not run yet."
        return
    many = len(one.arms) * len(one.seeds)
    if len(found) < many:
        yield f"Not complete yet: {len(found)} of {many} runs.\n"
    yield from _table(one, found)
    yield from _differences(one, found)
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
        for metric in one.metrics if seeds else ():
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
    """Return what a difference says, by rule: lower, higher, or nothing."""
    if gap.low is None:
        return "one seed: no interval"
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
