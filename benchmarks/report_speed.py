"""The report of a large test set: seconds, memory and bytes after the predictions are there.

    python benchmarks/report_speed.py [--samples 20000] [--attributes 40]

Two models tell attributes of samples with three group columns (2, 5 and 2 values); everything is drawn at random, with the compressed
model's logits those of the dense one plus noise. Seconds are those of the processor, one thread. The last output is in `report_speed.txt`.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import torch

from sparsify_cli.contracts.metric import Evidence, Truth
from sparsify_cli.pages.document import to_json
from sparsify_cli.pages.html import render_html
from sparsify_cli.pages.spreadsheet import render_csv
from sparsify_cli.pages.view import Stage, View
from sparsify_cli.stages.measure import measure_all
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding, Report

KEPT = Path(__file__).with_suffix(".txt")


def evidence(n: int, attributes: int) -> Evidence:
    """Two models, and a training set of as many samples."""
    draw = torch.Generator().manual_seed(0)
    rates = torch.rand(attributes, generator=draw) * 0.6 + 0.05
    targets, train = ((torch.rand(n, attributes, generator=draw) < rates).long() for _ in range(2))
    logits = (3.0 * targets - 1.5 + 1.5 * torch.randn(n, attributes, generator=draw)).float()
    names = tuple(f"attribute {i}" for i in range(attributes))

    def groups() -> dict[str, tuple[str, ...]]:
        counts = {"sex": 2, "age": 5, "site": 2}
        return {name: tuple(map(str, torch.randint(k, (n,), generator=draw).tolist())) for name, k in counts.items()}

    here, ids = groups(), tuple(f"sample-{i:06d}" for i in range(n))
    dense = Predictions(logits, targets, ids, here, names)
    pruned = Predictions(logits + 0.7 * torch.randn(n, attributes, generator=draw), targets, ids, here, names)
    return Evidence((pruned,), (dense,), tuple(train.double().mean(dim=0).tolist()), Truth(train, groups()))


def main() -> None:
    """Measure, render, and write down what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--attributes", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    seen = evidence(args.samples, args.attributes)
    start = time.process_time()
    findings = measure_all(seen)
    measured = time.process_time()
    size = (Finding(name="sparsity", value=0.9, unit="fraction"), Finding(name="bytes_packed", value=1e6, unit="bytes"))
    dense = Stage("dense", "train", "dense", {}, Report())
    view = View("synthetic", (dense, Stage("pruned 90 %", "prune", "pruned", {}, Report((*findings, *size)))))
    page, data, rows = render_html(view), json.dumps(to_json(view)), render_csv(view)
    done = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    said = (
        f"{args.samples:,} samples x {args.attributes} attributes: {len(findings):,} findings in {measured - start:.1f} s, "
        f"pages in {done - measured:.1f} s, peak {peak:,.0f} MB; "
        f"report.html {len(page.encode()) / 1e6:.2f} MB, report.json {len(data) / 1e6:.2f} MB, report.csv {len(rows) / 1e6:.2f} MB"
    )
    print(said)
    KEPT.write_text(said + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
