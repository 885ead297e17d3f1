"""One-shot pruning: accuracy, time and peak memory of each method at each level, on a trained network of yours.

    python benchmarks/one_shot.py model.pt --arch net.py:Net --data folder:photos [--methods auto,alps,...] [--levels 0.5,...,2:4]
        [--samples 1024] [--draws 3] [--threads 2]

Each cell is one run of `sparsify prune` in a process of its own, so that its peak memory is its own; seconds are those of
the whole command, start and evaluation included. Accuracy is that of the test split, the mean over draws of calibration samples
(seeds 0, 1, ...), with the largest distance from it. The table of the last run is written beside this file, as one_shot.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METHODS = {
    "magnitude": ["--allocation", "global"],
    "lamp": ["--criterion", "lamp", "--allocation", "global"],
    "wanda": ["--criterion", "wanda", "--allocation", "uniform"],
    "sparsegpt, uniform": ["--solver", "sparsegpt", "--allocation", "uniform", "--target", "own"],
    "alps, uniform": ["--solver", "alps", "--allocation", "uniform", "--target", "own"],
    "exactobs, uniform": ["--solver", "exactobs", "--allocation", "uniform", "--target", "own"],
    "refit": ["--solver", "refit"],
    "sparsegpt": ["--solver", "sparsegpt"],
    "alps": ["--solver", "alps"],
    "exactobs": ["--solver", "exactobs"],
    "woodfisher": ["--solver", "woodfisher", "--allocation", "global", "--samples", "512"],
    "cap": ["--solver", "cap", "--allocation", "global", "--samples", "512"],
    "auto": ["--solver", "auto"],
    "auto, high": ["--solver", "auto", "--effort", "high"],
}
"""Name -> flags. Those called uniform imitate the layer's own outputs, as published; the others our way."""

LEVELS = "0.5,0.6,0.7,0.8,0.9,2:4,4:8,1:4"


def cell(args: argparse.Namespace, method: str, level: str, seed: int) -> tuple[float, float, float]:
    """Accuracy in percent, seconds, and peak memory in MB of one run."""
    asked = ["--pattern", level] if ":" in level else ["--sparsity", level]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [sys.executable, "-m", "sparsify_cli", "prune", str(args.model), "--arch", args.arch, "--data", args.data]
        command += [
            "--samples",
            str(args.samples),
            "--seed",
            str(seed),
            "--threads",
            str(args.threads),
            "--out",
            str(out),
            "--format",
            "quiet",
        ]
        started = time.monotonic()
        with subprocess.Popen([*command, *asked, *METHODS[method]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            return float("nan"), float("nan"), float("nan")
        seconds, found = time.monotonic() - started, json.loads((out / "manifest.json").read_text())["numbers"]
    accuracy = next(f["value"] for f in found if f["name"] == "accuracy" and f.get("of") != "dense" and f.get("scope", "all") == "all")
    return 100 * accuracy, seconds, usage.ru_maxrss / 1024


def row(args: argparse.Namespace, method: str, level: str) -> str:
    """One line of the table."""
    runs = [cell(args, method, level, seed) for seed in range(args.draws)]
    accuracy, seconds, memory = (statistics.fmean(values) for values in zip(*runs, strict=True))
    off = max(abs(run[0] - accuracy) for run in runs)
    return f"{method:<20} {level:>5} {accuracy:7.2f} {off:6.2f} {seconds:8.0f} {memory:9.0f}"


def main() -> None:
    """Run the grid and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--methods", default=",".join(name for name in METHODS if "," not in name))
    parser.add_argument("--levels", default=LEVELS)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    lines = [f"{args.model.name}: {args.samples} calibration samples, {args.draws} draws, {args.threads} threads, {os.cpu_count()} cores"]
    lines += [f"{'method':<20} {'level':>5} {'acc. %':>7} {'+/-':>6} {'seconds':>8} {'peak MB':>9}"]
    print("\n".join(lines))
    for level in args.levels.split(","):
        for method in args.methods.split(";" if ";" in args.methods else ","):
            lines.append(row(args, method.strip(), level))
            print(lines[-1], flush=True)
    Path(__file__).with_suffix(".txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
