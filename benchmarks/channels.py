"""Whole channels: how small and fast a network really becomes, and what it costs, when half of its multiply-adds are asked to go.

    python benchmarks/channels.py [model.pt --arch net.py:Net --data folder:photos --name Net] [--budget macs=0.5] [--methods ...] [--again]

Each row is `sparsify prune --budget macs=0.5` and `sparsify shrink` on one thread: multiply-adds and parameters that are left of the
dense network's, latency beside the pruned network's before `shrink`, in one process and by turns, and accuracy on the test split, which
`shrink` does not change. Every cell is kept in `channels.jsonl`, the table is written to `channels.txt`. Without a model a small network is
trained on digits and only printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from kept import Cell, Kept, in_columns

METHODS = {
    "group-norm": ["--criterion", "group-norm"],
    "channels, norm": ["--criterion", "channels", "--set", "criterion.by=norm"],
    "channels, fisher": ["--criterion", "channels"],
    "channels, fisher, solver auto": ["--criterion", "channels", "--solver", "auto"],
}


def run(*words: str) -> None:
    """One command of the tool."""
    subprocess.run([sys.executable, "-m", "sparsify_cli", *words, "--format", "quiet"], check=True, stdout=subprocess.DEVNULL)


def numbers(folder: Path) -> dict[tuple[str, str], float]:
    """Numbers of an artifact by name and whose they are."""
    found = json.loads((folder / "manifest.json").read_text())["numbers"]
    return {(one["name"], one["of"]): one["value"] for one in found if one["scope"] == "all"}


def cell_of(args: argparse.Namespace, method: str, folder: Path) -> Cell:
    """Prune, take out, read the numbers."""
    about = ["--arch", args.arch, "--data", args.data, "--threads", "1"]
    pruned, small = (folder / f"{method}, {what}".replace(" ", "") for what in ("pruned", "small"))
    run("prune", str(args.model), *about, "--budget", args.budget, *METHODS[method], "--out", str(pruned))
    run("shrink", str(pruned), "--threads", "1", "--out", str(small))
    before, after = numbers(pruned), numbers(small)
    cell: Cell = {"model": args.name, "budget": args.budget, "method": method}
    shares = {key: after[key, "compressed"] / after[key, "dense"] for key in ("macs", "parameters")}
    cell |= {key: round(value, 3) for key, value in shares.items()} | {"latency": round(after["latency_ratio", "compressed"], 2)}
    return cell | {key: round(100 * before["accuracy", of], 2) for key, of in (("accuracy", "compressed"), ("dense", "dense"))}


COLUMNS = {"model": 26, "budget": 10, "method": 37, "macs": 8, "parameters": 12, "latency": 9, "accuracy": 10, "dense": 8}
"""Number -> width of its column; shares of the dense network's, latency of the pruned one's; accuracies in percent."""


KEPT = Kept(Path(__file__), ("model", "budget", "method"), partial(in_columns, widths=COLUMNS))


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--arch", default="cnn")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--name", default="")
    parser.add_argument("--budget", default="macs=0.5")
    parser.add_argument("--methods", default=";".join(METHODS))
    parser.add_argument("--again", action="store_true", help="measure cells anew that were measured before")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.model is None:
            args.model, args.name = Path(folder) / "dense", "CNN on digits"
            run("train", "--arch", args.arch, "--data", args.data, "--epochs", "8", "--lr", "0.02", "--out", str(args.model))
            print(in_columns([cell_of(args, method, Path(folder)) for method in args.methods.split(";")], COLUMNS))
        else:
            measure(args, Path(folder))


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Measure what is missing, and write the table."""
    args.name = args.name or args.model.name
    there = set() if args.again else KEPT.there()
    for method in args.methods.split(";"):
        if (args.name, args.budget, method) not in there:
            KEPT.add([cell_of(args, method, folder)])
            print(KEPT.write(), flush=True)


if __name__ == "__main__":
    main()
