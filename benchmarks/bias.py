"""Who pays for sparsity, on faces with three attributes and on clothes with a planted cue, by seeds and sparsities.

    python benchmarks/bias.py [--name faces|clothes] [--seeds 5] [--sparsities 0.8,0.9,0.95,0.98,0.99] [--epochs 15] [--again]

For each seed a network is trained (twice the epochs); `report --forecast` tells what is at risk; the network is pruned and trained on by
gradual magnitude pruning (`finetune --regime gmp`) to each sparsity; `report --score` measures that, and `report` what thresholds make of
it (`recalibrate --method thresholds`). All by the tool's own commands. Every cell is kept in `bias.jsonl`, which a second call goes
on with; `bias.txt` shows means over seeds with their standard error, and in how many seeds a number is above the dense network's.

Source of the claims: Iofinova, Peste, Alistarh 2023 (arXiv 2304.12622).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from kept import Cell, Kept
from unlearning import run

SUBJECTS = {
    "faces": ["--arch", "subjects.py:faces_net", "--data", "subjects.py:faces"],
    "clothes": ["--arch", "subjects.py:clothes_net", "--data", "subjects.py:clothes"],
}
Numbers = dict[tuple[str, str, str], float]
PERCENT: dict[str, Callable[[Cell], float]] = {
    "accuracy": lambda c: 100 * c["accuracy"],
    "unsure": lambda c: 100 * c["uncertainty"],
    "ECE": lambda c: 100 * c["ece"],
    "amplification": lambda c: 100 * c["bias_amplification"],
    "interdependence": lambda c: c["interdependence"],
    "threshold bias": lambda c: c["threshold_bias"],
    "recalibrated": lambda c: c["even_threshold_bias"],
    "amplif. then": lambda c: 100 * c["even_bias_amplification"],
}
"""Heading -> a number; percent, but for interdependence and threshold biases, which are ratios."""
LIFTS = {"exemplars' lift": "exemplars_lift", "forecast's lift": "forecast_lift"}


def numbers(folder: Path) -> Numbers:
    """(name, side, scope) -> value."""
    found = json.loads((folder / "manifest.json").read_text())["numbers"]
    return {(f["name"], f["of"], f["scope"]): f["value"] for f in found}


def must(*words: str) -> None:
    """A command that has to work."""
    if code := run(*words):
        raise SystemExit(f"sparsify {' '.join(words)} ended with {code}.")


def side(found: Numbers, of: str) -> dict[str, float]:
    """What is shown of the dense or of the compressed network."""
    names = ("accuracy", "uncertainty", "ece", "bias_amplification", "interdependence", "threshold_bias")
    return {name: found[name, of, "all"] for name in names} | {
        f"threshold_bias@{scope}": value for (name, whose, scope), value in found.items() if (name, whose) == ("threshold_bias", of)
    }


def measured(name: str, seed: int, levels: list[str], epochs: int, folder: Path) -> list[Cell]:
    """One seed: the dense network and what is left of it at each sparsity."""
    dense, told = folder / "dense", folder / "told"
    must("train", *SUBJECTS[name], "--epochs", str(2 * epochs), "--lr", "0.05", "--seed", str(seed), "--out", str(dense))
    must("report", str(dense), "--forecast", "--out", str(told))
    found: list[Cell] = []
    for level in levels:
        sparse, page, even, again = (folder / f"{what}-{level}" for what in ("sparse", "page", "even", "again"))
        how = ["--regime", "gmp", "--sparsity", level, "--epochs", str(epochs), "--lr", "0.02", "--seed", str(seed)]
        must("finetune", str(dense), *how, "--out", str(sparse))
        must("report", str(sparse), "--score", str(told), "--out", str(page))
        must("recalibrate", str(sparse), "--method", "thresholds", "--out", str(even))
        must("report", str(even), "--dense", str(dense), "--out", str(again))
        there, after = numbers(page), numbers(again)
        about = {"name": name, "seed": seed}
        if not found:
            found.append({**about, "sparsity": "0", **side(there, "dense")})
        lifts = {key: there.get((key, "compressed", "all"), there.get((key, "", "all"))) for key in LIFTS.values()}
        evened = {f"even_{key}": value for key, value in side(after, "compressed").items()}
        found.append({**about, "sparsity": level, **side(there, "compressed"), **lifts, **evened})
    return found


def tables(kept: list[Cell]) -> str:
    """For each subject: sparsities by numbers."""
    return "\n".join(_table(name, [c for c in kept if c["name"] == name]) for name in dict.fromkeys(c["name"] for c in kept))


def _table(name: str, of: list[Cell]) -> str:
    dense = {c["seed"]: c for c in of if c["sparsity"] == "0"}
    heads = [*PERCENT, *LIFTS]
    lines = [f"{name}: means over {len(dense)} seeds +- standard error; (k) = above the dense network in k seeds"]
    lines.append(f"{'zeros':>6}" + "".join(f"{head:>20}" for head in heads))
    for level in dict.fromkeys(c["sparsity"] for c in of):
        here = [c for c in of if c["sparsity"] == level]
        shown = [_shown(here, number, dense if level != "0" else {}) for number in PERCENT.values()]
        shown += [_shown(here, lambda c, key=key: c[key], {}) for key in LIFTS.values()]
        lines.append(f"{level:>6}" + "".join(f"{one:>20}" for one in shown))
    return "\n".join(lines) + "\n"


def _shown(here: list[Cell], number: Callable[[Cell], float], dense: dict[int, Cell]) -> str:
    try:
        values = [number(c) for c in here]
    except (KeyError, TypeError):
        return "-"
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    try:
        above = f" ({sum(number(c) > number(dense[c['seed']]) for c in here)})" if dense else ""
    except KeyError:
        above = ""
    spread = f"+-{error:.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}{above}"


KEPT = Kept(Path(__file__), ("name", "seed", "sparsity"), tables)


def main() -> None:
    """Read the options, measure what is missing, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", choices=SUBJECTS, default="faces")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sparsities", default="0.8,0.9,0.95,0.98,0.99")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--again", action="store_true")
    args = parser.parse_args()
    there = set() if args.again else KEPT.there("name", "seed")
    for seed in range(args.seeds):
        if (args.name, seed) in there:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = measured(args.name, seed, args.sparsities.split(","), args.epochs, Path(folder))
        KEPT.add(found)
    print(KEPT.write())


if __name__ == "__main__":
    main()
