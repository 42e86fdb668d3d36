"""A plot of time against length: our kernels and torch's own attention, forward and backward.

    python -m benchmarks.auto.plot --out docs/times.svg

Window 256 + 256, 12 heads of size 64, float32, batch 1. A curve ends where the next length would
take too long.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention

import sparse_patterns as sp
from benchmarks import machine
from benchmarks.contenders import DIRECTIONS, HEADS, WINDOW, Contender, random_inputs
from benchmarks.timing import Effort, interleave, medians

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
LONGEST_S = 4.0  # of one call; a length at which it is exceeded is a curve's last
LARGEST_MASK = 4096  # tokens up to which torch is given the window as a mask

Times = dict[str, list[tuple[int, float]]]


def contenders(length: int) -> dict[str, Contender]:
    """Return what is compared at a length, by the name in the legend."""
    inputs = random_inputs(length)
    calls: dict[str, Callable[..., torch.Tensor]] = {
        "torch, all keys": scaled_dot_product_attention,
        "torch, causal": partial(scaled_dot_product_attention, is_causal=True),
    }
    if length <= LARGEST_MASK:
        mask = sp.dense_mask(WINDOW, length, heads=1)
        calls["torch, the window as a mask"] = partial(scaled_dot_product_attention, attn_mask=mask)
        for name in ("sdpa", "dense"):
            calls[f"kernel {name}"] = partial(sp.attention, pattern=WINDOW, kernel=name)
    calls["kernel tiles"] = partial(sp.attention, pattern=WINDOW, kernel="tiles")
    calls["auto"] = partial(sp.attention, pattern=WINDOW)
    return {name: Contender(call, inputs) for name, call in calls.items()}


def measure(direction: str, effort: Effort, lengths: Sequence[int] = LENGTHS) -> Times:
    """Return the median seconds of each contender by length, `(tokens, seconds)`."""
    found: Times = {}
    slow: set[str] = set()
    for length in lengths:
        able = {}
        for name, one in contenders(length).items():
            if name not in slow and not (name == "kernel sdpa" and length > LARGEST_MASK):
                able[name] = one.run(direction)
        for name, seconds in medians(interleave(able, effort)).items():
            found.setdefault(name, []).append((length, seconds))
            if seconds > LONGEST_S:
                slow.add(name)
    return found


def draw(times: dict[str, Times], title: str, path: Path) -> None:
    """Save a figure with one panel for each pass."""
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "times"
    figure, panels = pyplot.subplots(1, len(times), figsize=(11, 4.6), sharey=True, squeeze=False)
    for panel, (direction, curves) in zip(panels[0], times.items(), strict=True):
        for name, points in curves.items():
            length, seconds = zip(*points, strict=True)
            style = "--" if name.startswith("torch") else "-"
            width = 3.5 if name == "auto" else 1.5
            milliseconds = [1e3 * one for one in seconds]
            panel.plot(
                length,
                milliseconds,
                style,
                label=name,
                linewidth=width,
                alpha=0.5 if name == "auto" else 1,
                marker="" if name == "auto" else ".",
            )
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        # A curve may end before others do.
        panel.set_xticks(sorted({length for points in curves.values() for length, _ in points}))
        panel.xaxis.set_major_formatter(lambda tokens, _: f"{tokens:,.0f}")
        panel.tick_params("x", rotation=45)
        panel.set_xlabel("length in tokens")
        panel.set_title(direction.replace("+", " + "))
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("milliseconds")
    panels[0][0].legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and draws."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.auto.plot", description=__doc__)
    made.add_argument("--out", type=Path, default=Path("docs/times.svg"))
    made.add_argument("--lengths", nargs="+", type=int, default=LENGTHS, metavar="TOKENS")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--budget", type=float, default=5.0, help="seconds a comparison")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--processor-time", action="store_true")
    given = made.parse_args(arguments)
    torch.set_num_threads(given.threads)
    effort = Effort(given.rounds, given.budget, given.processor_time)
    times = {direction: measure(direction, effort, given.lengths) for direction in DIRECTIONS}
    clock = "processor time" if given.processor_time else "time"
    threads = "1 thread" if given.threads == 1 else f"{given.threads} threads"
    title = (
        f"{clock} of a window of 256 + 256 keys, {HEADS} heads of size 64, float32, batch 1\n"
        f"{machine.processor()}, {threads}, torch {torch.__version__}"
    )
    draw(times, title, given.out)


if __name__ == "__main__":
    main()
