"""A 100 M encoder, pruned block by block: seconds and peak memory of the whole command.

    python benchmarks/encoder.py                       BERT base, 109 M weights, 128 sequences of 128 tokens, SparseGPT at 50 %
    python benchmarks/encoder.py --solver auto --layers 2

The weights are random: neither time nor memory asks what they are. Sequences end in padding, as real ones do. Peak memory is that of
the process; what importing torch and transformers takes is given beside it. Needs transformers. The last output is kept in `encoder.txt`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NETWORK = """
import torch
from transformers import BertConfig, BertForSequenceClassification


def net():
    return BertForSequenceClassification(BertConfig(num_labels=2, max_position_embeddings=128, num_hidden_layers={layers}))


def data(split):
    generator = torch.Generator().manual_seed(["train", "validation", "test"].index(split))
    count = {samples} + 60 if split == "train" else 32
    ids = torch.randint(1, 30000, (count, 128), generator=generator)
    for row, end in zip(ids, torch.randint(40, 128, (count,), generator=generator)):
        row[end:] = 0
    return {{"x": ids, "y": (ids[:, 0] > 15000).long()}}
"""


def measured(command: list[str], folder: Path) -> tuple[float, float, float, int]:
    """Seconds of the clock, of the processor, peak memory in MB, and the exit code of a command."""
    started = time.monotonic()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, process.returncode


def main() -> None:
    """Build the encoder, prune it, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solver", default="sparsegpt")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--sparsity", default="0.5")
    parser.add_argument("--threads", default="2")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "encoder.py").write_text(NETWORK.format(layers=args.layers, samples=args.samples))
        save = "import encoder, torch; net = encoder.net(); torch.save(net.state_dict(), 'encoder.pt')"
        save += "; print(sum(p.numel() for p in net.parameters()))"
        weights = int(subprocess.run([sys.executable, "-c", save], cwd=folder, check=True, capture_output=True, text=True).stdout)
        _, _, imports, _ = measured(
            [sys.executable, "-c", "import transformers.models.bert.modeling_bert, sparsify_cli.stages.prune"], folder
        )
        given = {"arch": "encoder.py:net", "data": "encoder.py:data", "solver": args.solver, "sparsity": args.sparsity}
        given |= {"samples": str(args.samples), "threads": args.threads, "allocation": "uniform", "out": "pruned", "format": "quiet"}
        flags = [word for key, value in given.items() for word in (f"--{key}", value)]
        clock, processor, peak, code = measured([sys.executable, "-m", "sparsify_cli", "prune", "encoder.pt", *flags], folder)
    network = f"{weights / 1e6:.0f} M weights ({weights * 4 / 1e6:,.0f} MB)"
    took = f"{clock:.0f} s, {processor:.0f} s of processor, peak {peak:,.0f} MB (imports {imports:,.0f})"
    print(f"{network}, {args.solver} {args.sparsity}, {args.samples} sequences of 128, {args.threads} threads: {took}, exit {code}")


if __name__ == "__main__":
    main()
