"""The numbers of a streamed pruning: the same names and definitions as when everything is held in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from sparsify_cli.stages.measure import BUFFERS
from sparsify_cli.stages.plan import tied_names
from sparsify_cli.stages.rows import Row
from sparsify_cli.stages.subject import Subject
from sparsify_cli.values.layout import WIDTHS
from sparsify_cli.values.report import Finding, Report

LAYER = Finding(name="sparsity", value=None, unit="fraction", definition="Share of the prunable (masked) weights that are exactly zero.")
TOTAL = Finding(name="sparsity_total", value=None, unit="fraction", definition="Share of all parameters that are exactly zero.")
LEFT = Finding(name="nonzeros", value=None, unit="parameters", definition="Parameters that are not zero.")
ALL = Finding(name="parameters", value=None, unit="parameters", definition="All numbers that training sets, zeros included.")
DISK = Finding(
    name="bytes_disk",
    value=None,
    unit="bytes",
    better="lower",
    definition="Size of the files that hold the weights, every number stored, in the format they are in.",
)
PACKED = Finding(
    name="bytes_packed",
    value=None,
    unit="bytes",
    better="lower",
    definition="Size of the packed file, about: one bit a weight and what is not zero; headers are not counted.",
)


def stream_report(
    before: Subject,
    rows: Sequence[Row],
    zeros: Mapping[str, int],
    pruned: Mapping[str, int],
    kept: Mapping[str, int],
    *,
    written: int | None = None,
) -> Report:
    """Sparsity, counts and sizes before and after.

    Args:
        before: the original.
        rows: its plan.
        zeros: exact zeros of every floating tensor before.
        pruned: exact zeros of every pruned tensor after.
        kept: weights that stay in every pruned tensor.
        written: bytes of the files that were written; None = as many as before, since only numbers change.
    """
    home = before.checkpoint.home
    size = home.layout.bytes if home else 0
    again = tied_names(before.checkpoint, before.architecture)
    after = _found(rows, {**zeros, **pruned}, kept, written if written is not None else size, again)
    dense = [replace(f, of="dense") for f in _found(rows, zeros, kept, size, again) if not f.scope.startswith("layer:")]
    return Report((*after, *dense))


def _found(rows: Sequence[Row], zeros: Mapping[str, int], prunable: Mapping[str, int], size: int, again: Collection[str]) -> list[Finding]:
    """Findings of the numbers, those under a second name (`again`) counted once."""
    parameters = [row for row in rows if row.name in zeros and not row.name.endswith(BUFFERS) and row.name not in again]
    masked = [row for row in parameters if row.name in prunable]
    every, gone = sum(row.weights for row in parameters), sum(zeros[row.name] for row in parameters)
    found = [
        _share(masked, zeros, "all"),
        replace(TOTAL, value=gone / every if every else None, n=every),
        replace(LEFT, value=float(every - gone), n=every),
        replace(ALL, value=float(every), n=every),
        replace(DISK, value=float(size)),
        replace(PACKED, value=float(sum(_packed(row, zeros.get(row.name, 0)) for row in rows))),
    ]
    return found + [_share([row], zeros, f"layer:{row.name}") for row in masked]


def _share(rows: Sequence[Row], zeros: Mapping[str, int], scope: str) -> Finding:
    weights = sum(row.weights for row in rows)
    return replace(LAYER, value=sum(zeros[row.name] for row in rows) / weights if weights else None, n=weights, scope=scope)


def _packed(row: Row, zeros: int) -> int:
    width = WIDTHS[row.dtype]
    return min(row.weights * width, -(-row.weights // 8) + (row.weights - zeros) * width)
