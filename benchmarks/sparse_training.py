"""Sparse training from a trained network: accuracy, processor time and multiply-adds of each regime, with distillation.

    python benchmarks/sparse_training.py model.pt --arch net.py:Net --data folder:photos --name Net
        [--regimes gmp,acdc,rigl] [--levels 0.9,0.95] [--epochs 12] [--lr 0.015] [--precision bf16-mixed] [--seeds 0] [--again]

Each cell is `sparsify finetune --objective distill` (the dense network teaches) on one thread, from where the regime is strong: gmp goes on
from `prune --solver auto` at 65 %, rigl from that at 80 % and `prune --solver cap` at the target after it, acdc from the dense network with
`--allocation erk` (a global share empties whole layers at once in its first sparse phase: at 95 % 69.0 % instead of 81.1).
`--batchnorm` measures statistics anew at the end and keeps them where validation loss falls (cells with `trained` norms are older). Time is
the processor's, the pruning before included. Accuracy is that of the test split. Every cell is kept in `sparse_training.jsonl`, which a
second call goes on with; the table of all networks in it is written to `sparse_training.txt`. Without a model a small network is trained on
digits and only printed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from kept import Cell, Kept, in_columns

RECIPE = {"objective": "distill", "batch-size": 64, "nesterov": None, "augment": "crop-flip", "batchnorm": None}
TEACHER = ["--set", "objective.temperature=20", "--set", "objective.weight=1"]
"""Nothing of the labels: the network has seen these images before, the teacher's doubts are what is left to learn. At a high temperature
logits are matched one by one (section 2.1 of Hinton et al. 2015, arXiv 1503.02531), also those of classes that nobody would name."""
START = {"gmp": (("auto", "0.65"),), "rigl": (("auto", "0.8"), ("cap", "target")), "acdc": ()}
"""Regime -> solver and sparsity of each pruning before it starts; none = the dense network."""
OWN = {
    "gmp": ["--set", "regime.initial=0.65", "--set", "regime.end=0.35run"],
    "rigl": [],
    "acdc": ["--allocation", "erk"],
}
"""Regime -> its flags."""


def run(*words: str) -> float:
    """One command of the tool; returns its processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "sparsify_cli", *words, "--format", "quiet"], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cell_of(args: argparse.Namespace, regime: str, level: str, folder: Path, seed: int = 0) -> Cell:
    """Prune as far as the regime starts from, train, read the numbers."""
    about = ["--arch", args.arch, "--data", args.data, "--threads", "1"]
    seconds, given = 0.0, str(args.model)
    for solver, wanted in START[regime]:
        given, last = str(folder / f"{solver}-{wanted.replace('target', level)}"), given
        if not Path(given).exists():
            args.spent[given] = run(
                "prune", last, *about, "--solver", solver, "--sparsity", wanted.replace("target", level), "--out", given
            )
        seconds += args.spent[given]
    out = folder / f"{regime}-{level}-{seed}"
    flags = [word for name, value in RECIPE.items() for word in ([f"--{name}"] if value is None else [f"--{name}", str(value)])]
    train = ["finetune", given, *about, "--regime", regime, "--sparsity", level, "--epochs", str(args.epochs), "--lr", str(args.lr)]
    train += ["--precision", args.precision, "--seed", str(seed)]
    augment = flags if args.images else [word for word in flags if word not in ("--augment", "crop-flip")]
    seconds += run(*train, *augment, *TEACHER, *OWN[regime], "--out", str(out))
    numbers = json.loads((out / "manifest.json").read_text())["numbers"]
    named = {(one["name"], one["of"]): one["value"] for one in numbers if one["scope"] == "all"}
    cell: Cell = {"model": args.name, "regime": regime, "level": level, "epochs": args.epochs, "lr": args.lr, "seed": seed}
    cell |= {"norms": "anew", "precision": args.precision, "cpu": round(seconds)}
    both = {"accuracy": "compressed", "dense": "dense"}
    cell |= {key: round(100 * named["accuracy", of], 2) for key, of in both.items() if ("accuracy", of) in named}
    return cell | {"macs": named["training_macs", "compressed"], "share": round(named["training_macs_share", "compressed"], 4)}


COLUMNS = {
    "model": 26,
    "regime": 8,
    "level": 8,
    "epochs": 8,
    "lr": 8,
    "seed": 6,
    "norms": 9,
    "accuracy": 10,
    "dense": 8,
    "precision": 12,
    "cpu": 8,
    "macs": 12,
    "share": 8,
}
"""Number -> width of its column; accuracies in percent, seconds of the processor, multiply-adds and their share of dense training."""


def table(cells: list[Cell]) -> str:
    """A row a cell."""
    rows = [{**c, "macs": f"{c['macs']:.3g}", "share": f"{c['share']:.1%}"} for c in cells]
    return in_columns(rows, COLUMNS)


KEPT = Kept(Path(__file__), ("model", "regime", "level", "seed"), table)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--arch", default="cnn")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--name", default="")
    parser.add_argument("--regimes", default="gmp,acdc,rigl")
    parser.add_argument("--levels", default="0.9,0.95")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=0.015)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--again", action="store_true", help="measure cells anew that were measured before")
    args = parser.parse_args()
    args.spent, args.images = {}, True
    with tempfile.TemporaryDirectory() as folder:
        if args.model is None:
            digits(args, Path(folder))
        else:
            measure(args, Path(folder))


def digits(args: argparse.Namespace, folder: Path) -> None:
    """A network that is trained here; nothing is kept."""
    args.model, args.name, args.lr = folder / "dense", "CNN on digits", 0.02
    run("train", "--arch", args.arch, "--data", args.data, "--epochs", "8", "--out", str(args.model))
    args.images = False  # digits have no left and right
    print(table([cell_of(args, regime, "0.9", folder) for regime in args.regimes.split(",")]))


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Measure what is missing, and write the table."""
    args.name = args.name or args.model.name
    there = set() if args.again else KEPT.there()
    for level in args.levels.split(","):
        for regime in args.regimes.split(","):
            for seed in (seed for seed in map(int, args.seeds.split(",")) if (args.name, regime, level, seed) not in there):
                KEPT.add([cell_of(args, regime, level, folder, seed)])
                print(KEPT.write(), flush=True)


if __name__ == "__main__":
    main()
