"""One-shot pruning: accuracy, time and peak memory of each method at each level, on a trained network of yours.

    python benchmarks/one_shot.py model.pt --arch net.py:Net --data folder:photos [--methods 'auto;alps'] [--levels 0.5,...,2:4]
        [--samples 1024] [--draws 3] [--jobs 1]

Each cell is one run of `sparsify prune --threads 1` in a process of its own, so that its peak memory is its own; seconds are those of the
processor (start and evaluation included; what runs share is done once and counted for each, see `forked.py`) and of the clock.
Accuracy is that of the test split, the mean over draws of calibration samples (seeds 0, 1, ...), with the largest distance from it;
methods that look at no samples are drawn once, but for those that draw numbers themselves. Methods for whole rows and channels (greedy,
good-subnetworks, group-norm, geometric-median, apoz, activation-mean, activation-variance) are measured by `whole_filters.py`.
Batch-norm statistics are those that cost least on held-out training data, for all methods alike. The networks of the tables are those
of `published.py`.

Every cell is kept in `one_shot.jsonl`, which a second call goes on with; the tables of all networks in it are written to `one_shot.txt`.
Cells of another version of the tool are measured again with --again. Without a model a small network is trained on digits and only printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from forked import Forked, Run
from kept import Cell, Kept

PUBLISHED = ["--allocation", "uniform", "--target", "own", "--no-bias"]
METHODS = {
    "random": ["--criterion", "random"],
    "magnitude, uniform": ["--allocation", "uniform"],
    "magnitude, global": ["--allocation", "global"],
    "magnitude, erk": ["--allocation", "erk"],
    "lamp": ["--criterion", "lamp", "--allocation", "global"],
    "synflow": ["--criterion", "synflow", "--allocation", "global"],
    "snip": ["--criterion", "snip", "--allocation", "global"],
    "grasp": ["--criterion", "grasp", "--allocation", "global"],
    "taylor": ["--criterion", "taylor", "--allocation", "global"],
    "obd": ["--criterion", "obd", "--allocation", "global"],
    "wanda": ["--criterion", "wanda", "--allocation", "uniform"],
    "wanda, owl": ["--criterion", "wanda", "--allocation", "owl"],
    "ria": ["--criterion", "ria", "--allocation", "uniform"],
    "dsnot": ["--solver", "dsnot", *PUBLISHED],
    "sparsegpt": ["--solver", "sparsegpt", "--set", "solver.budget=block", *PUBLISHED],
    "alps": ["--solver", "alps", *PUBLISHED],
    "exactobs": ["--solver", "exactobs", *PUBLISHED],
    "woodfisher": ["--solver", "woodfisher", "--allocation", "global", "--samples", "512"],
    "m-fac": ["--solver", "m-fac", "--allocation", "global", "--samples", "512"],
    "obert": ["--solver", "obert", "--allocation", "global", "--samples", "512"],
    "cap": ["--solver", "cap", "--allocation", "global", "--samples", "512"],
    "our refit": ["--solver", "refit"],
    "our one-swap": ["--solver", "one-swap"],
    "our sparsegpt": ["--solver", "sparsegpt"],
    "our alps": ["--solver", "alps"],
    "our exactobs": ["--solver", "exactobs"],
    "auto": ["--solver", "auto"],
    "auto, high": ["--solver", "auto", "--effort", "high"],
}
"""Name -> flags. The first ones follow their papers: equal or ranked shares, each layer's own outputs imitated; three of them not to the
end. `wanda` and `ria` let all weights of a layer compete (theirs: those of an output row for Wanda), and every layer's inputs are those
of the dense network (theirs: of the layers pruned before); `dsnot` sets the weights by least squares in the end (theirs leaves them as they
were). Ours share weights out by measured divergence, imitate the dense network's outputs, and correct biases."""

SAME = {
    "magnitude, global": "magnitude, uniform",
    "magnitude, erk": "magnitude, uniform",
    "lamp": "magnitude, uniform",
    "wanda, owl": "wanda",
}
"""With N:M every group keeps as many as it may, so methods that differ in how layers share are one: it is measured once."""

LEVELS = "0.5,0.6,0.7,0.8,0.9,2:4,4:8,1:4"
BLIND = {"magnitude, uniform", "magnitude, global", "magnitude, erk", "lamp", "synflow"}
"""They look at no samples and draw no numbers."""


def command(args: argparse.Namespace, method: str, level: str, seed: int, out: Path) -> list[str]:
    """Words of one run, without the program's name."""
    asked = ["--pattern", level] if ":" in level else ["--sparsity", level]
    given = {"arch": args.arch, "data": args.data, "samples": args.samples, "seed": seed, "threads": 1, "format": "quiet"}
    words = ["prune", str(args.model), *asked, "--out", str(out), *METHODS[method]]
    return words + [word for name, value in given.items() for word in (f"--{name}", str(value))]


def cell_of(args: argparse.Namespace, method: str, level: str, seed: int, out: Path, run: Run) -> Cell:
    """One run: accuracy in percent, seconds of processor and clock, peak memory in MB; None where it was refused."""
    cell: Cell = {"model": args.name or args.model.name, "method": method, "level": level, "seed": seed, "accuracy": None}
    cell |= {"seconds": round(run.clock, 1), "cpu": round(run.cpu, 1), "mb": run.mb, "said": run.said.strip()[-200:] if run.code else ""}
    if not run.code:
        cell |= numbers_of(json.loads((out / "manifest.json").read_text())["numbers"])
    return cell


def numbers_of(found: list[dict[str, Any]]) -> Cell:
    """Accuracy of the pruned and of the dense network, percent."""
    named = [f for f in found if f["name"] == "accuracy" and f.get("scope", "all") == "all"]
    of = {f.get("of") or "pruned": round(100 * f["value"], 4) for f in named}
    dense = of.pop("dense", None)
    return {"accuracy": next(iter(of.values())), "dense": dense}


def tables(kept: list[Cell]) -> str:
    """Accuracy, processor seconds and memory of every network, methods by levels."""
    parts = []
    for model in dict.fromkeys(c["model"] for c in kept):
        of = [c for c in kept if c["model"] == model]
        dense = next((c["dense"] for c in of if c.get("dense")), float("nan"))
        levels = [level for level in LEVELS.split(",") if any(c["level"] == level for c in of)]
        parts.append(f"{model}: dense {dense:.2f} %; accuracy; of several draws their mean, the largest distance from it, (draws)")
        parts.append(" " * 20 + "".join(f"{level:>18}" for level in levels) + f"{'cpu s':>8}{'peak MB':>9}")
        parts += [_row(method, [c for c in of if c["method"] == measured_as(method, c["level"])], levels) for method in METHODS]
        parts.append("")
    return "\n".join(part for part in parts if part is not None)


def measured_as(method: str, level: str) -> str:
    """The method whose cell it is."""
    return SAME.get(method, method) if ":" in level else method


def _row(method: str, of: list[Cell], levels: list[str]) -> str | None:
    if not of:
        return None
    shown = [_shown([c["accuracy"] for c in of if c["level"] == level]) for level in levels]
    cpu, peak = statistics.median(c["cpu"] for c in of), max(c["mb"] for c in of)
    return f"{method:<20}" + "".join(f"{text:>18}" for text in shown) + f"{cpu:8.0f}{peak:9.0f}"


def _shown(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "refused" if values else "-"
    mean = statistics.fmean(known)
    if len(known) == 1:
        return f"{mean:.2f}"
    return f"{mean:.2f} +-{max(abs(v - mean) for v in known):.2f} ({len(known)})"


KEPT = Kept(Path(__file__), ("model", "method", "level", "seed"), tables)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--arch", default="cnn")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--name", default="", help="of the network in the tables; its file by default")
    parser.add_argument("--methods", default=";".join(METHODS), help="separated by semicolons")
    parser.add_argument("--levels", default=LEVELS)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; seconds of the clock mean little with more than one")
    parser.add_argument("--again", action="store_true", help="measure cells anew that were measured before")
    args = parser.parse_args()
    if args.model is None:
        digits(args)
    else:
        measure(args)


def digits(args: argparse.Namespace) -> None:
    """A few cells of a network that is trained here."""
    with tempfile.TemporaryDirectory() as folder:
        args.model, args.name, args.samples = Path(folder) / "dense", "CNN on digits", 512
        train = ["train", "--arch", args.arch, "--data", args.data, "--epochs", "6", "--out", str(args.model), "--format", "quiet"]
        subprocess.run([sys.executable, "-m", "sparsify_cli", *train], check=True)
        few = ("magnitude, global", "wanda", "sparsegpt", "exactobs", "cap", "auto")
        print(tables(list(measured(args, [(method, level, 0) for level in ("0.9", "2:4") for method in few]))))


def measure(args: argparse.Namespace) -> None:
    """Measure what is missing, and write the tables."""
    there = set() if args.again else KEPT.there()
    asked = [
        (method.strip(), level, seed)
        for seed in range(args.draws)
        for level in args.levels.split(",")
        for method in args.methods.split(";")
        if not (seed and method.strip() in BLIND) and not (":" in level and method.strip() in SAME)
    ]
    for cell in measured(args, [one for one in asked if (args.name or args.model.name, *one) not in there]):
        KEPT.add([cell])
        print(*(cell[key] for key in ("method", "level", "seed", "accuracy", "cpu", "mb", "said")), sep="  ", flush=True)


def measured(args: argparse.Namespace, todo: Sequence[tuple[str, str, int]]) -> Iterator[Cell]:
    """Cells in the order in which they end."""
    forked = Forked()
    with tempfile.TemporaryDirectory() as folder:
        outs = {one: Path(folder) / str(i) for i, one in enumerate(todo)}
        for seed in {seed for _, _, seed in todo}:
            forked.warm([*command(args, "our refit", "0.5", seed, Path(folder) / f"warm-{seed}")])
        for one in todo:
            if forked.running == args.jobs:
                yield cell_of(args, *done(forked, outs))
            forked.start(command(args, *one, outs[one]), one)
        while forked.running:
            yield cell_of(args, *done(forked, outs))


def done(forked: Forked, outs: Mapping[Any, Path]) -> tuple[Any, ...]:
    """The next run that ends."""
    one, run = forked.ended()
    return *one, outs[one], run


if __name__ == "__main__":
    main()
