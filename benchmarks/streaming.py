"""Pruning a file as a stream beside `cp` of it and beside torch.nn.utils.prune: time and memory, in one run and in turn.

A file of random bfloat16 weights is made in a temporary folder, and removed. Whatever is compared runs alternately and after
the same pause, as the first write after a large file was removed can be several times faster or slower than the next one.
What is timed is the work, in a fresh process whose imports are done; our files are brought to the disk before the clock
stops, those of `cp` only where it says so. Nothing else should be running: all cores are used.

    python benchmarks/streaming.py            1 billion weights, 9 GB of disk, 14 GB of memory for torch, some minutes
    python benchmarks/streaming.py --quick    50 million weights

The last output is kept in `streaming.txt`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

SIDE = 2000
"""Rows and columns of each tensor."""

REQUESTS = {
    "global": ["--sparsity", "0.9"],
    "uniform": ["--sparsity", "0.9", "--allocation", "uniform"],
    "2:4": ["--pattern", "2:4"],
}
SMALL = 500_000_000
PAUSE = 3.0
"""Seconds before anything is timed, in which the system takes back the pages of removed files."""


# In processes of their own: each prints one line of JSON.


def used() -> dict[str, float]:
    """Seconds of processor time and the peak of resident memory of this process so far, bytes."""
    now = resource.getrusage(resource.RUSAGE_SELF)
    peak = now.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"cpu": now.ru_utime + now.ru_stime, "peak": peak}


def timed(work: Callable[[], object], base: float) -> dict[str, float]:
    """Seconds, processor seconds, and the peak of memory above `base`."""
    before, start = used(), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - start, used()
    return {"seconds": seconds, "cpu": after["cpu"] - before["cpu"], "peak": after["peak"] - base}


def torch_alone() -> float:
    """Peak of memory once torch is imported."""
    import torch

    del torch
    return used()["peak"]


def run_make(path: str, parameters: str) -> dict[str, float]:
    """Write a safetensors file of normal bfloat16 weights: random ones of 65,536 quantiles."""
    import numpy as np

    generator = np.random.default_rng(0)
    floats = np.sort(generator.normal(0.0, 0.02, 1 << 16)).astype(np.float32)
    quantiles = ((floats.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)
    count, size = max(1, int(parameters) // SIDE**2), 2 * SIDE**2
    about = {
        f"layers.{i}.weight": {"dtype": "BF16", "shape": [SIDE, SIDE], "data_offsets": [i * size, (i + 1) * size]} for i in range(count)
    }
    header = json.dumps(about).encode()
    header = header.ljust(-(-len(header) // 8) * 8)
    with Path(path).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(count):
            file.write(quantiles[generator.integers(0, 1 << 16, SIDE**2, dtype=np.uint16)].data)
    return {}


def run_prune(path: str, out: str, *request: str) -> dict[str, float]:
    """`sparsify prune`, once a tiny file has had everything imported."""
    base = torch_alone()
    from sparsify_cli.cli.app import main

    tiny = Path(out).with_name("tiny.safetensors")
    run_make(str(tiny), "0")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        codes = [main(["prune", str(tiny), "--out", f"{out}-tiny", *request])]
        found = timed(lambda: codes.append(main(["prune", path, "--out", out, "--format", "quiet", *request])), base)
    if any(codes):
        raise SystemExit(f"sparsify prune {request} failed")
    return found


def run_phases(path: str, out: str) -> dict[str, float]:
    """Seconds of each phase of a global pruning, as the listener hears of them, and of waiting for the disk."""
    from sparsify_cli.contracts.listener import Listener, Progress
    from sparsify_cli.recipes.verbs import PruneRecipe
    from sparsify_cli.stages.prune import prune

    last: dict[str, float] = {}
    found = {"waiting for the disk": 0.0}

    class Phases(Listener):
        def progress(self, now: Progress) -> None:
            """The last word of each phase is its end."""
            last[now.label] = time.perf_counter()

    flush = os.fsync

    def measured(descriptor: int) -> None:
        begun = time.perf_counter()
        flush(descriptor)
        found["waiting for the disk"] += time.perf_counter() - begun

    os.fsync = measured
    start = time.perf_counter()
    prune(PruneRecipe(model=path, sparsity=Fraction(9, 10), out=out), Phases())
    ends = [*last.items(), ("waiting, hashing masks, report", time.perf_counter())]
    for (label, end), begun in zip(ends, [start, *last.values()], strict=True):
        found[label] = end - begun
    return found


def run_model(path: str, parameters: str) -> dict[str, float]:
    """Write the state dict of a stack of linear layers, float32."""
    import torch

    torch.manual_seed(0)
    torch.save(stack(int(parameters)).state_dict(), path)
    return {}


def stack(parameters: int) -> Any:
    """Ten linear layers without biases, [side, side] each."""
    from torch import nn

    side = int((parameters / 10) ** 0.5)
    return nn.Sequential(*(nn.Linear(side, side, bias=False) for _ in range(10)))


def run_torch(path: str, out: str, parameters: str) -> dict[str, float]:
    """What torch offers: load, prune globally, make it permanent, save."""
    base = torch_alone()
    import torch
    from torch.nn.utils import prune

    def work() -> None:
        model = stack(int(parameters))
        model.load_state_dict(torch.load(path, weights_only=True))
        prune.global_unstructured([(layer, "weight") for layer in model], pruning_method=prune.L1Unstructured, amount=0.9)
        for layer in model:
            prune.remove(layer, "weight")
        torch.save(model.state_dict(), out)

    return timed(work, base)


def run_masks(before: str, ours: str, theirs: str) -> dict[str, float]:
    """Zeros of two pruned state dicts, where their masks differ, and how many magnitudes lie there."""
    import torch

    held = [torch.load(path, weights_only=True, mmap=True) for path in (before, ours, theirs)]
    zeros, differ, magnitudes = [0, 0], 0, set()
    for name, weight in held[0].items():
        gone = [state[name] == 0 for state in held[1:]]
        zeros = [total + int(one.sum()) for total, one in zip(zeros, gone, strict=True)]
        where = gone[0] != gone[1]
        differ += int(where.sum())
        magnitudes.update(weight[where].abs().tolist())
    return {"ours": zeros[0], "theirs": zeros[1], "differ": differ, "magnitudes": len(magnitudes)}


# In the process that compares them.


@dataclass
class Table:
    """Lines of the outcome."""

    missed: list[str] = field(default_factory=list)

    def line(self, figure: str, value: str, target: str = "", *, reached: bool | None = None) -> None:
        """One figure; `reached` None = it is there to be read only."""
        verdict = {None: "", True: "reached", False: "MISSED"}[reached]
        print(f"{figure:66} {value:>22}  {target:>16}  {verdict}".rstrip(), flush=True)
        if reached is False:
            self.missed.append(figure)

    def most(self, figure: str, value: float, target: float, unit: str) -> None:
        """A figure that must not be above its target."""
        self.line(figure, f"{value:.2f} {unit}", f"<= {target:g} {unit}", reached=value <= target)

    def least(self, figure: str, value: float, target: float) -> None:
        """A ratio that must not be below its target."""
        self.line(figure, f"{value:.0f} x", f">= {target:g} x", reached=value >= target)


def own_process(work: str, *words: object) -> dict[str, float]:
    """What one of the functions above finds in a fresh process; `whole` = its seconds, imports included."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, "--run", work, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found | {"whole": time.perf_counter() - start}


def pruned(path: Path, out: Path, request: Sequence[str]) -> dict[str, float]:
    """Prune a file after the usual pause, and remove what was written."""
    time.sleep(PAUSE)
    try:
        return own_process("prune", path, out, *request)
    finally:
        for left in (out, Path(f"{out}-tiny")):
            shutil.rmtree(left, ignore_errors=True)


def copied(path: Path, out: Path) -> dict[str, float]:
    """Seconds of `cp`, of bringing the copy to the disk, and of a second read."""
    time.sleep(PAUSE)
    steps = {"cp": lambda: command("cp", path, out), "sync": lambda: synced(out), "read": lambda: command("cat", out)}
    try:
        return {name: seconds(step) for name, step in steps.items()}
    finally:
        out.unlink()


def command(*words: object) -> None:
    """Run a command whose output does not matter."""
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)


def synced(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def seconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def both(values: Sequence[float]) -> str:
    """Median and minimum."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}) s"


def beside_cp(table: Table, path: Path, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Every request beside `cp`, in turn; medians of the ratios of neighbours."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in REQUESTS}
    copies: dict[str, list[dict[str, float]]] = {name: [] for name in REQUESTS}
    for _ in range(rounds):
        for name, request in REQUESTS.items():
            runs[name].append(pruned(path, path.with_name("out"), request))
            copies[name].append(copied(path, path.with_name("copy")))
    everything = [copy for held in copies.values() for copy in held]
    table.line("median (minimum) of the rounds, in seconds", "")
    for step, words in (("cp", "cp of the same file"), ("sync", "and bringing that to the disk"), ("read", "reading it a second time")):
        table.line(f"  {words}", both([copy[step] for copy in everything]))
    for name in REQUESTS:
        report_pair(table, name, runs[name], copies[name])
    return runs


def report_pair(table: Table, name: str, runs: Sequence[Mapping[str, float]], copies: Sequence[Mapping[str, float]]) -> None:
    """One request beside `cp`; a global one beside `cp` and a second read."""
    words = " ".join(["prune", *REQUESTS[name]])
    parts, target = (["cp", "read"], 2.5) if name == "global" else (["cp"], 2.0)
    table.line(words, both([run["seconds"] for run in runs]))
    table.line("  the whole command, imports included", both([run["whole"] for run in runs]))
    table.line("  processor time, all cores", both([run["cpu"] for run in runs]))
    for also, of in (([], " + ".join(parts)), (["sync"], " + ".join([*parts, "sync"]))):
        sums = [sum(copy[part] for part in [*parts, *also]) for copy in copies]
        ratio = statistics.median(run["seconds"] / one for run, one in zip(runs, sums, strict=True))
        least = min(run["seconds"] for run in runs) / min(sums)
        table.line(f"  as many times ({of})", f"{ratio:.2f} ({least:.2f})", f"<= {target:g}", reached=ratio <= target)


def phases(table: Table, path: Path) -> None:
    """Where the time of a global pruning goes."""
    found = own_process("phases", path, path.with_name("out"))
    shutil.rmtree(path.with_name("out"))
    table.line("prune --sparsity 0.9, where the time goes", "")
    for label, spent in found.items():
        if label != "whole":
            table.line(f"  {label}", f"{spent:.2f} s")


def starts(table: Table, path: Path, rounds: int) -> None:
    """Commands that only look."""
    for words, target in ((["--help"], 0.5), (["inspect", path], 2.0)):
        found = [seconds(lambda words=words: command(sys.executable, "-m", "sparsify_cli", *words)) for _ in range(2 * rounds + 1)]
        table.most(f"sparsify {words[0]}, imports included, median", statistics.median(found), target, "s")


def memory(table: Table, folder: Path, parameters: int, smaller: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Peak of memory for a file, and for one twice as large."""
    double = folder / "double.safetensors"
    own_process("make", double, 2 * parameters)
    for name, request in REQUESTS.items():
        small = max(run["peak"] for run in smaller[name]) / 1e6
        large = pruned(double, folder / "out", request)["peak"] / 1e6
        table.most(f"peak memory above torch imported, {name}", small, 300, "MB")
        table.most("  for a file twice as large", large, 300, "MB")
        table.line("  more than before", f"{large - small:.0f} MB", "<= 20 MB", reached=large - small <= 20)
    double.unlink()


def beside_torch(table: Table, folder: Path, parameters: int) -> None:
    """The same request in torch, on a state dict in float32."""
    model, theirs, ours = folder / "model.pt", folder / "theirs.pt", folder / "ours"
    own_process("model", model, parameters)
    torch = own_process("torch", model, theirs, parameters)
    mine = own_process("prune", model, ours, *REQUESTS["global"])
    table.line(f"torch.nn.utils.prune.global_unstructured + save, {parameters / 1e6:.0f} M float32", "")
    for name, found in (("torch", torch), ("sparsify", mine)):
        text = f"{found['seconds']:.1f} s, {found['cpu']:.1f} s of processor time, {found['peak'] / 1e6:,.0f} MB"
        table.line(f"  {name}: {text}", "")
    for key, words in (("seconds", "faster"), ("cpu", "less processor time"), ("peak", "leaner")):
        table.least(f"  {words}", torch[key] / mine[key], 30)
    masks = own_process("masks", model, next(ours.rglob("model.pt")), theirs)
    same = masks["ours"] == masks["theirs"] and masks["magnitudes"] <= 1
    table.line("  zeros", f"{masks['ours']:,.0f}", f"{masks['theirs']:,.0f}", reached=masks["ours"] == masks["theirs"])
    table.line("  positions that differ; magnitudes there", f"{masks['differ']:,.0f}; {masks['magnitudes']:.0f}", "one: ties", reached=same)


@contextlib.contextmanager
def workplace(folder: str | None, parameters: int) -> Iterator[Path]:
    """A temporary folder with enough room."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="streaming-") as name:
        needed, free = 9 * parameters, shutil.disk_usage(name).free
        if free < needed:
            raise SystemExit(
                f"{name} has {free / 1e9:.1f} GB free and {needed / 1e9:.1f} are needed: use --folder, --parameters or --quick."
            )
        yield Path(name)


def asked() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=1e9, help="weights of the file; 9 bytes of disk for each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="50 million weights")
    parser.add_argument("--folder", help="where the temporary folder is made")
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_known_args()[0] if "--run" not in sys.argv else argparse.Namespace(run=sys.argv[2:])


def main() -> None:
    """Measure everything and print the table."""
    options = asked()
    if options.run:
        print("\n" + json.dumps(globals()[f"run_{options.run[0]}"](*options.run[1:])))
        return
    parameters = 50_000_000 if options.quick else int(options.parameters)
    if parameters < SMALL:
        print(
            f"Targets are meant for 1e9 weights: below {SMALL:.0e} what a command costs whatever the size counts for more than the size.\n"
        )
    table = Table()
    with workplace(options.folder, parameters) as folder:
        file = folder / "weights.safetensors"
        own_process("make", file, parameters)
        load = ", ".join(f"{number:.1f}" for number in os.getloadavg())
        print(
            f"{parameters:,} bfloat16 weights, {os.cpu_count()} cores ({platform.machine()}), {options.rounds} rounds, load before {load}\n"
        )
        starts(table, file, options.rounds)
        runs = beside_cp(table, file, options.rounds)
        phases(table, file)
        file.unlink()
        memory(table, folder, parameters, runs)
        beside_torch(table, folder, parameters // 4)
    print(f"\n{len(table.missed)} missed" if table.missed else "\nall reached")


if __name__ == "__main__":
    main()
