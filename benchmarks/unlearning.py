"""Forgetting: every method beside a network trained anew without the samples: what is still known, and how near the answers are.

    python benchmarks/unlearning.py [--of digits|adult|fashion|fashion-50000|faces|resnet20|resnet20-60] [--seeds 3] [--again]
        [--keep FOLDER] [--sets 'random:1%;random:5%;half:3;class:3'] [--methods ssse;gradient-ascent;...]
        [--arch cnn] [--data digits] [--name NAME] [--epochs 8] [--lr 0.05] [--weight-decay W]
        [--train '--augment crop-flip --precision bf16-mixed']

For each seed a network is trained, and trained anew without each set by the same recipe, seed included (`--unlearner retrain`, or `train
--without` where --train gives further flags of training); then every method forgets the set. All by the tool's own commands, on one thread.
`half:3` is a random half of class 3. Distances are the mean share of the answer that differs (total variation) from the network trained
anew, over forgotten and over test samples; `profile` is the mean difference of the sorted probabilities of the truth over forgotten
samples: how differently much is known of them, whichever are answered wrongly, which chance decides. `nothing` is the network as it was,
`anew, other seed` a network trained anew from another start, which is as near as a method can be expected to come: training is chaotic, and
what is nearer than that is not closer to retraining, only to the start that both had. What it costs is in `unlearning_time.py`. Every cell
is kept in `unlearning.jsonl` under NAME, which a second call goes on with, so another recipe needs another name; `--keep` keeps what was
trained, too. The tables are written to `unlearning.txt`.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import random
import shlex
import statistics
import tempfile
from pathlib import Path
from typing import Any

from kept import Cell, Kept

METHODS = {
    "nothing": [],
    "ssse": ["--unlearner", "ssse"],
    "ssse, kronecker": ["--unlearner", "ssse", "--set", "unlearner.fisher=kronecker"],
    "ssse, low-rank": ["--unlearner", "ssse", "--set", "unlearner.fisher=low-rank"],
    "ssse, diagonal": ["--unlearner", "ssse", "--set", "unlearner.block=1"],
    "gradient-ascent": ["--unlearner", "gradient-ascent"],
    "fisher-forgetting": ["--unlearner", "fisher-forgetting"],
    "ssd": ["--unlearner", "ssd"],
    "finetune": ["--unlearner", "finetune"],
    "scrub": ["--unlearner", "scrub"],
    "salun": ["--unlearner", "salun"],
    "anew, other seed": [],
}
OTHER = 1000
"""Added to the seed of the second network that is trained anew."""
DECAYING = ("ssse", "finetune", "scrub", "salun")
"""Methods that follow the loss that was trained, its weight decay included."""
PREPARED = ("ssse", "ssse, kronecker", "ssse, low-rank", "ssse, diagonal", "fisher-forgetting", "ssd")
SETS = "random:1%;random:5%;half:3;class:3"
SHOWN = {
    "accuracy_forget_after": "forgotten",
    "accuracy_test_others_after": "test, others",
    "accuracy_test_after": "test",
    "distance_forget_reference": "distance",
    "distance_test_reference": "on test",
    "distance_profile_forget_reference": "profile",
    "membership_loss_after": "attack",
}
"""Number -> heading."""
JUDGED = ("accuracy_forget", "accuracy_test_others", "accuracy_test")
"""Numbers of a network trained anew that the audit beside it knows."""


def run(*words: str) -> int:
    """One command of the tool, in this process; its exit code."""
    from sparsify_cli.cli.app import main as tool

    with contextlib.redirect_stdout(io.StringIO()):
        return tool([*words, "--threads", "1", "--format", "quiet"])


def numbers(folder: Path) -> dict[str, float]:
    """Numbers of an artifact, of the whole network."""
    found = json.loads((folder / "manifest.json").read_text())["numbers"]
    return {f["name"]: f["value"] for f in found if f["scope"] == "all" and f["of"] == "compressed"}


SET_UPS: dict[str, dict[str, Any]] = {
    "digits": {"arch": "subjects.py:digits_net", "data": "digits", "epochs": 200, "lr": 0.1, "weight_decay": 1e-3},
    "adult": {"arch": "subjects.py:adult_net", "data": "subjects.py:adult", "epochs": 30, "sets": SETS.replace(":3", ":1")},
    "fashion": {"arch": "subjects.py:fashion_net", "data": "subjects.py:fashion", "epochs": 30},
    "fashion-50000": {"arch": "subjects.py:fashion_net", "data": "subjects.py:fashion_50000", "epochs": 12},
    "faces": {
        "arch": "subjects.py:faces_net", "data": "subjects.py:faces", "epochs": 30, "sets": "random:1%;random:5%;attribute:white",
    },
    "resnet20": {
        "arch": "published.py:resnet20", "data": "published.py:resnet20_data", "epochs": 10, "lr": 0.1, "weight_decay": 5e-4,
        "train": "--augment crop-flip --precision bf16-mixed --nesterov --batch-size 128 --warmup 1ep",
    },
}  # fmt: skip
SET_UPS["resnet20-60"] = SET_UPS["resnet20"] | {"epochs": 60}
"""Name -> how its networks are trained: other numbers than these are other networks, and need a --name of their own."""


class Seed:
    """One trained network, and everything that is done to it."""

    memos: dict[str, Path]

    def __init__(self, args: argparse.Namespace, seed: int, folder: Path) -> None:
        self.args, self.seed, self.folder = args, seed, folder
        self.kept = args.keep / (args.name or args.data) / str(seed) if args.keep else folder
        self.kept.mkdir(parents=True, exist_ok=True)
        self.dense, self.memos = self.kept / "dense", {}
        if self.dense.exists():
            return
        if self.trained(self.dense, seed):
            raise SystemExit("The network to forget from could not be trained.")

    def trained(self, out: Path, seed: int, *more: str) -> int:
        """Train a network from its start; the exit code."""
        args = self.args
        how = ["--epochs", str(args.epochs), "--lr", str(args.lr), *(shlex.split(args.train) if args.train else ["--warmup", "0it"])]
        how += ["--weight-decay", str(args.weight_decay)] if args.weight_decay is not None else []
        return run("train", "--arch", args.arch, "--data", args.data, *how, "--seed", str(seed), *more, "--out", str(out))

    def reference(self, which: str, other: int = 0) -> Path:
        """The network trained anew without a set, from the same start or another one."""
        out = self.kept / f"anew-{which.replace(':', '-').replace('%', '')}{'-other' if other else ''}"
        if out.exists():
            return out
        if self.args.train:
            self.trained(out, self.seed + other, "--without", self.forget(which))
        else:
            words = [*self.again(), "--seed", str(self.seed), "--most-harm", "1"]
            run("unlearn", str(self.dense), "--forget", self.forget(which), *words, "--out", str(out))
        return out

    def again(self) -> list[str]:
        """Flags of training anew."""
        how = [f"unlearner.epochs={self.args.epochs}", f"unlearner.lr={self.args.lr}", *self.regularised()]
        return ["--unlearner", "retrain", *(word for one in how for word in ("--set", one))]

    def regularised(self) -> list[str]:
        """The option that tells an unlearner of the weight decay, where one is given."""
        return [f"unlearner.weight_decay={self.args.weight_decay}"] if self.args.weight_decay is not None else []

    def forget(self, which: str) -> str:
        """What --forget is given: a file of ids where samples are drawn, so that another seed forgets the same ones."""
        kind, _, label = which.partition(":")
        file = self.kept / f"{kind}-{label}.csv"
        if kind not in ("half", "random"):
            return which
        if not file.exists():
            from sparsify_cli.stages.resolve import load_samples, parse_spec

            train = load_samples(parse_spec(self.args.data, ()), "train")
            ids = [name for name, target in zip(train.ids, train.targets.tolist(), strict=True) if kind == "random" or target == int(label)]
            share = 0.5 if kind == "half" else float(label.rstrip("%")) / 100
            with file.open("w", newline="") as out:
                csv.writer(out).writerows([["id"], *([name] for name in random.Random(self.seed).sample(ids, round(share * len(ids))))])
        return str(file)

    def memo(self, method: str) -> list[str]:
        """Flags of what was prepared."""
        if method not in PREPARED:
            return []
        if method not in self.memos:
            self.memos[method] = self.folder / f"memo-{len(self.memos)}"
            run("unlearn", str(self.dense), "--prepare", *self.options(method), "--out", str(self.memos[method]))
        return ["--memo", str(self.memos[method])]

    def options(self, method: str) -> list[str]:
        """A method and its options."""
        told = self.regularised() if method.startswith(DECAYING) else []
        return [*METHODS[method], *(word for one in told for word in ("--set", one))]

    def flags(self, method: str) -> list[str]:
        """Flags of a method."""
        if method == "anew, other seed":
            return [*self.again(), "--set", f"unlearner.seed={self.seed + OTHER}"]
        if method == "nothing":
            return [*self.options("ssse"), "--set", "unlearner.epsilon=0", *self.memo("ssse")]
        return [*self.options(method), *self.memo(method)]

    def cell(self, method: str, which: str) -> Cell:
        """One method on one set."""
        about = {"name": self.args.name or self.args.data, "method": method, "set": which, "seed": self.seed}
        reference, out = self.reference(which), self.folder / f"out-{len(list(self.folder.iterdir()))}"
        words = ["--forget", self.forget(which), "--seed", str(self.seed), "--audit", "--reference", str(reference), "--most-harm", "1"]
        other = self.reference(which, OTHER) if self.args.train and method == "anew, other seed" else None
        words += ["--reference", str(other), *self.flags("nothing")] if other else self.flags(method)
        code = run("unlearn", str(self.dense), *words, "--out", str(out))
        if code and not (out / "unlearning.json").exists():  # what changed no weight is exit 4, and its numbers are those of no action
            return {**about, "failed": code}
        found, anew = numbers(out), numbers(reference)
        anew |= {f"{name}_after": found[f"{name}_reference"] for name in JUDGED if f"{name}_reference" in found and self.args.train}
        if other is None:
            return {**about, **found, "anew": anew}
        both = ("forget", "test", "profile_forget")
        apart = {f"distance_{split}_reference": found[f"distance_{split}_between"] for split in both}
        return {**about, "accuracy_test_after": numbers(other)["accuracy"], **apart, "anew": anew}


def tables(kept: list[Cell]) -> str:
    """For each network and set: methods by numbers, means over seeds."""
    parts = []
    for name, which in dict.fromkeys((c["name"], c["set"]) for c in kept):
        of = [c for c in kept if (c["name"], c["set"]) == (name, which)]
        anew = [c["anew"] for c in of if "anew" in c and c["method"] == "nothing"]
        parts.append(f"{name}, {which}: means of {len({c['seed'] for c in of})} seeds, percent; attack: AUC by loss")
        parts.append(" " * 20 + "".join(f"{heading:>14}" for heading in SHOWN.values()))
        parts += [_row(method, [c for c in of if c["method"] == method]) for method in METHODS if any(c["method"] == method for c in of)]
        parts += [_row("trained anew", anew), ""]
    return "\n".join(parts)


def _row(method: str, of: list[Cell]) -> str:
    return f"{method:<20}" + "".join(f"{_shown(key, [c.get(key) for c in of]):>14}" for key in SHOWN)


def _shown(key: str, values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = statistics.fmean(known)
    return f"{mean:.3f}" if key.startswith("membership") else f"{100 * mean:.2f}"


KEPT = Kept(Path(__file__), ("name", "method", "set", "seed"), tables)


def main() -> None:
    """Read the options, measure what is missing, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="cnn")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--name", default="")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--weight-decay", type=float)
    parser.add_argument("--train", default="", help="further flags of training, for the network and for those trained anew")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", default=SETS)
    parser.add_argument("--methods", default=";".join(METHODS))
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--of", choices=SET_UPS, default="", help="a network of the tables, with its data and recipe")
    of = parser.parse_known_args()[0].of
    parser.set_defaults(**({"name": of} | SET_UPS[of] if of else {}))
    args = parser.parse_args()
    if of and args.name == of and any(getattr(args, name) != value for name, value in SET_UPS[of].items() if name != "sets"):
        parser.error(f"with another recipe these are not the networks of {of}: give them a --name of their own")
    there = set() if args.again else KEPT.there()
    name = args.name or args.data
    for seed in range(args.seeds):
        asked = [(m.strip(), s) for s in args.sets.split(";") for m in args.methods.split(";") if (name, m.strip(), s, seed) not in there]
        if not asked:
            continue
        with tempfile.TemporaryDirectory() as folder:
            work = Seed(args, seed, Path(folder))
            for method, which in asked:
                KEPT.add([work.cell(method, which)])
    print(KEPT.write())


if __name__ == "__main__":
    main()
