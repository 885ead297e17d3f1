"""Networks nested in one another beside networks of the same sparsities that were trained on their own, with the same budget.

    python benchmarks/elsa.py [--arch cnn] [--data digits] [--name NAME] [--model dense.pt] [--levels 0.95,0.8,0] [--epochs 8] [--lr 0.05]
        [--seeds 3] [--flags "--augment flip"] [--again]

Each level of `embed` and each network alone (`train`, or with --model `finetune`, both with `--regime gmp`; dense ones `--regime fixed`)
gets the same epochs, rate and seed. Beside them the sparse levels with the last level's batch norm and biases, as masking alone would
give, and with statistics measured anew on 1,000 training samples (`--state shared` at extraction). Test accuracy, percent: mean over seeds
and the largest distance from it. Every cell is kept in `elsa.jsonl`, which a second call goes on with; the tables go to `elsa.txt`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from kept import Cell, Kept

WAYS = {
    "nested": "nested, private state",
    "alone": "trained alone",
    "bare": "nested, last level's state",
    "renewed": "the same, statistics anew",
}


def run(*words: str) -> None:
    """One command of the tool."""
    subprocess.run([sys.executable, "-m", "sparsify_cli", *words, "--format", "quiet"], check=True, stdout=subprocess.DEVNULL)


def accuracies(folder: Path) -> dict[str, float]:
    """Scope -> accuracy of an artifact, percent."""
    found = json.loads((folder / "manifest.json").read_text())["numbers"]
    return {f["scope"]: 100 * f["value"] for f in found if f["name"] == "accuracy" and f["of"] == "compressed"}


def seed_cells(args: argparse.Namespace, seed: int, folder: Path) -> Iterator[Cell]:
    """Every way at every level, of one seed."""
    levels = [level.strip() for level in args.levels.split(",")]
    about = ["--arch", args.arch, "--data", args.data, "--epochs", str(args.epochs), "--lr", str(args.lr), "--seed", str(seed)]
    about += args.flags.split()
    run("embed", *([args.model] if args.model else []), *about, "--levels", args.levels, "--out", str(folder / "nest"))
    nested = accuracies(folder / "nest")
    bare = dict(shared(folder / "nest", levels))
    for number, level in enumerate(levels, 1):
        out = folder / f"alone-{number}"
        how = ["--regime", "fixed"] if float(level) == 0 else ["--regime", "gmp", "--sparsity", level]
        run(*(["finetune", args.model] if args.model else ["train"]), *about, *how, "--out", str(out))
        found = {"nested": nested[f"level:{number}"], "alone": accuracies(out)["all"], **bare.get(level, {})}
        for way, value in found.items():
            yield {"name": args.name or args.data, "level": level, "seed": seed, "way": way, "accuracy": value}


def shared(folder: Path, levels: list[str]) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Accuracy of each level but the last with the last one's side state, as it is and with statistics measured anew."""
    from dataclasses import replace

    from sparsify_cli.stages.levels import level_network, with_own_statistics
    from sparsify_cli.stages.measure import predict
    from sparsify_cli.stages.subject import open_path

    embedded = open_path(folder)
    assert embedded.nest is not None
    nest = replace(embedded.nest, side=(embedded.nest.side[-1],) * embedded.nest.levels)
    for number, level in enumerate(levels[:-1], 1):
        network = level_network(replace(embedded, nest=nest), number)
        ways = {"bare": network, "renewed": with_own_statistics(network)}
        test = network.samples("test")
        yield level, {way: 100 * float(predict(one.module(), test).correct.double().mean()) for way, one in ways.items()}


def tables(kept: list[Cell]) -> str:
    """Ways by levels, for each network."""
    parts = []
    for name in dict.fromkeys(c["name"] for c in kept):
        of = [c for c in kept if c["name"] == name]
        levels = list(dict.fromkeys(c["level"] for c in of))
        parts.append(f"{name}: test accuracy, percent, means of {len({c['seed'] for c in of})} seeds and the largest distance from them")
        parts.append(" " * 30 + "".join(f"{level:>16}" for level in levels))
        for way, title in WAYS.items():
            found = [[c["accuracy"] for c in of if (c["way"], c["level"]) == (way, level)] for level in levels]
            parts.append(f"{title:<30}" + "".join(f"{_shown(values):>16}" for values in found))
        parts.append(f"{'nested - alone, by seed':<30}" + "".join(f"{_gaps(of, level):>16}" for level in levels))
        parts.append("")
    return "\n".join(parts)


def _shown(values: list[float]) -> str:
    if not values:
        return "-"
    mean = statistics.fmean(values)
    return f"{mean:.2f} +-{max(abs(v - mean) for v in values):.2f}"


def _gaps(of: list[Cell], level: str) -> str:
    """Mean difference, and two standard errors of it."""
    both = {way: {c["seed"]: c["accuracy"] for c in of if (c["way"], c["level"]) == (way, level)} for way in ("nested", "alone")}
    gaps = [both["nested"][seed] - both["alone"][seed] for seed in both["nested"] if seed in both["alone"]]
    if len(gaps) < 2:
        return f"{gaps[0]:+.2f}" if gaps else "-"
    return f"{statistics.fmean(gaps):+.2f} +-{2 * statistics.stdev(gaps) / len(gaps) ** 0.5:.2f}"


KEPT = Kept(Path(__file__), ("name", "level", "seed", "way"), tables)


def main() -> None:
    """Read the options, measure what is missing, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="cnn")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--name", default="")
    parser.add_argument("--model", default="")
    parser.add_argument("--levels", default="0.95,0.8,0")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--flags", default="", help="further flags of embed, train and finetune")
    parser.add_argument("--again", action="store_true")
    args = parser.parse_args()
    there = set() if args.again else KEPT.there("name", "seed")
    for seed in range(args.seeds):
        if (args.name or args.data, seed) not in there:
            with tempfile.TemporaryDirectory() as folder:
                found = list(seed_cells(args, seed, Path(folder)))
            KEPT.add(found)
    print(KEPT.write())


if __name__ == "__main__":
    main()
