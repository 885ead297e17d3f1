"""When is a convolution without its zero columns faster than the convolution? Times side by side, one thread.

    python benchmarks/compaction.py [--rounds 15] [--batch 8]

For each layer and share of columns that are left: processor time of `maths.compact_conv.CompactConv2d` over that of the dense
convolution on the same images, both taken in turn in every round; shown is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from sparsify_cli.maths.compact_conv import compacted, compaction

LAYERS = ((16, 32), (32, 16), (64, 8), (128, 28), (256, 14))
"""Channels in and out, size of the image; kernels are 3 x 3."""
SHARES = (0.5, 0.25, 0.1, 0.05)


def seconds(run: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


@torch.no_grad()
def ratio(channels: int, size: int, share: float, *, rounds: int, batch: int) -> float:
    """Time of the compact layer over that of the convolution."""
    torch.manual_seed(0)
    dense = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    weight = dense.weight.detach().clone()
    weight.flatten(1)[:, torch.randperm(9 * channels)[round(9 * share * channels) :]] = 0
    kept = compaction(weight)
    small = compacted(nn.Sequential(dense), {"0": (len(kept.rows), len(kept.columns))})
    small.load_state_dict(kept.tensors("0", weight))
    images = torch.randn(batch, channels, size, size)
    times = [(seconds(lambda: small(images)), seconds(lambda: dense(images))) for _ in range(rounds + 2)][2:]
    return statistics.median(compact / whole for compact, whole in times)


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("time of the compact layer / time of the convolution")
    print(f"{'columns left':<22}" + "".join(f"{share:>8.0%}" for share in SHARES))
    for channels, size in LAYERS:
        found = [ratio(channels, size, share, rounds=args.rounds, batch=args.batch) for share in SHARES]
        print(f"{channels:>4} channels, {size:>2} x {size:<2}  " + "".join(f"{one:>8.2f}" for one in found), flush=True)


if __name__ == "__main__":
    main()
