"""Methods for whole rows and channels: accuracy when so many weights of every layer go, on a small network.

    python benchmarks/whole_filters.py [--levels 0.3,0.5]

A CNN is trained on digits; each cell is `sparsify prune --allocation uniform` on one thread, with all training samples for calibration:
accuracy on the test split in percent, batch-norm statistics as they cost least on held-out training data. Magnitude of single weights,
which leaves no row or channel whole, stands beside them. The last output is kept in `whole_filters.txt`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from channels import numbers, run
from kept import in_columns

METHODS = {
    "magnitude, single weights": [],
    "group-norm": ["--criterion", "group-norm"],
    "geometric-median": ["--criterion", "geometric-median"],
    "apoz": ["--criterion", "apoz"],
    "activation-mean": ["--criterion", "activation-mean"],
    "activation-variance": ["--criterion", "activation-variance"],
    "greedy": ["--solver", "greedy"],
    "good-subnetworks": ["--solver", "good-subnetworks"],
}


def accuracy(dense: Path, method: str, level: str) -> float:
    """Of one pruning, in percent."""
    out = dense.with_name(f"{method}-{level}".replace(" ", ""))
    run("prune", str(dense), "--sparsity", level, "--allocation", "uniform", "--threads", "1", *METHODS[method], "--out", str(out))
    return 100 * numbers(out)["accuracy", "compressed"]


def table(dense: Path, levels: list[str]) -> str:
    """A row a method, a column a level."""
    rows = [{"method": method} | {level: f"{accuracy(dense, method, level):.1f}" for level in levels} for method in METHODS]
    return in_columns(rows, {"method": 28} | dict.fromkeys(levels, 8))


def main() -> None:
    """Train, measure, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", default="0.3,0.5")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / "dense"
        run("train", "--arch", "cnn", "--data", "digits", "--epochs", "8", "--lr", "0.02", "--out", str(dense))
        whole = 100 * numbers(dense)["accuracy", "compressed"]
        text = f"CNN on digits, dense {whole:.1f} %\n\n{table(dense, args.levels.split(','))}"
    Path(__file__).with_suffix(".txt").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
