"""Time of forgetting, relative to that of training anew without the same samples.

    python benchmarks/unlearning_time.py --of digits|adult|fashion|fashion-50000|faces|resnet20|resnet20-60 [--keep FOLDER] [--again]
        [--sets 'random:1%;random:5%;half:3;class:3'] [--methods ssse;gradient-ascent;...] [--seed 0]

The networks, sets and methods of `unlearning.py`, which tells what the forgetting is worth. Both are measured by the tool's own commands in
one process, on one thread, right after one another: forgetting without reading data, measuring and what `--prepare` did before (which has a
row of its own), the median of three runs, or one that takes over two seconds. Training anew is that of the method `retrain`; where a recipe
has flags of `train`, its epochs times what the second and third of them took. `nothing` is a step of length zero: what it costs to look at
the probes and at the gradient of the samples. Cells are kept in `unlearning_time.jsonl`, the table is written to `unlearning_time.txt`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from kept import Cell, Kept
from unlearning import METHODS, PREPARED, SET_UPS, SETS, Seed, numbers, run

LONG = 2.0
"""Seconds from which one run is enough."""


class Clock:
    """Times of one trained network."""

    def __init__(self, work: Seed) -> None:
        """Nothing is measured yet."""
        self.work, self.runs, self.trained = work, 0, dict[str, float]()

    def out(self) -> Path:
        """A folder that is not there yet."""
        self.runs += 1
        return self.work.folder / f"timed-{self.runs}"

    def anew(self, which: str) -> float:
        """Seconds of training anew without a set."""
        if which not in self.trained:
            self.trained[which] = self._by_epochs(which) if self.work.args.train else self.erased(which, self.work.again())
        if not self.trained[which]:
            raise SystemExit("The network could not be trained anew.")
        return self.trained[which]

    def _by_epochs(self, which: str) -> float:
        args, took = self.work.args, []
        whole, without = args.epochs, self.work.forget(which)
        for args.epochs in (1, 3):
            begun = time.perf_counter()
            if self.work.trained(self.out(), self.work.seed, "--without", without):
                raise SystemExit("The network could not be trained anew.")
            took.append(time.perf_counter() - begun)
        args.epochs = whole
        return whole * (took[1] - took[0]) / 2

    def erased(self, which: str, flags: list[str]) -> float:
        """Seconds of one run of forgetting; 0 where the method refused."""
        out = self.out()
        run("unlearn", str(self.work.dense), "--forget", self.work.forget(which), *flags, "--most-harm", "1", "--out", str(out))
        return numbers(out)["seconds_erase"] if out.exists() else 0.0

    def cell(self, method: str, which: str) -> Cell:
        """One method on one set."""
        flags = self.work.flags(method)
        took = [self.erased(which, flags)]
        while len(took) < 3 and 0 < took[0] < LONG:
            took.append(self.erased(which, flags))
        about = {"name": self.work.args.name, "set": which, "method": method, "seed": self.work.seed}
        return {**about, "seconds": statistics.median(took) if took[0] else None, "anew": self.anew(which)}

    def prepared(self, method: str) -> Cell:
        """What preparing took."""
        self.work.memo(method)
        took = numbers(self.work.memos[method])["seconds_prepare"]
        return {"name": self.work.args.name, "set": "prepare", "method": method, "seed": self.work.seed, "seconds": took, "anew": None}


def table(kept: list[Cell]) -> str:
    """A row for each network and set, a column for each method: percent of training anew, means over seeds; seconds of preparing."""
    rows = list(dict.fromkeys((c["name"], c["set"]) for c in kept))
    methods = [m for m in METHODS if any(c["method"] == m for c in kept)]
    lines = ["Seconds of training anew, and forgetting in percent of them; preparing in seconds.", ""]
    lines.append(" " * 28 + f"{'anew, s':>9}" + "".join(f"  {method}" for method in methods))
    for row in rows:
        of = {method: [c for c in kept if (c["name"], c["set"], c["method"]) == (*row, method)] for method in methods}
        anew = [c["anew"] for cells in of.values() for c in cells if c["anew"]]
        shown = "".join(f"  {_shown(cells):>{len(method)}}" for method, cells in of.items())
        lines.append(f"{', '.join(row):<28}{f'{statistics.fmean(anew):.1f}' if anew else '':>9}{shown}")
    return "\n".join(lines) + "\n"


def _shown(cells: list[Cell]) -> str:
    found = [c["seconds"] / (c["anew"] / 100 if c["anew"] else 1) for c in cells if c["seconds"] is not None]
    return f"{statistics.fmean(found):.2f}" if found else "-"


KEPT = Kept(Path(__file__), ("name", "set", "method", "seed"), table)


def main() -> None:
    """Read the options, measure what is missing, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", choices=SET_UPS, required=True)
    parser.add_argument("--sets", default="")
    parser.add_argument("--methods", default=";".join(method for method in METHODS if method != "anew, other seed"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    given = {"name": asked.of, "train": "", "weight_decay": None, "lr": 0.05, "sets": SETS} | SET_UPS[asked.of]
    args = argparse.Namespace(**given, keep=asked.keep)
    there = set() if asked.again else KEPT.there()
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock(Seed(args, asked.seed, Path(folder)))
        for which in ("prepare", *(asked.sets or args.sets).split(";")):
            for method in asked.methods.split(";"):
                if (args.name, which, method, asked.seed) in there or (which == "prepare" and method not in PREPARED):
                    continue
                KEPT.add([clock.prepared(method) if which == "prepare" else clock.cell(method, which)])
    print(KEPT.write())


if __name__ == "__main__":
    main()
