"""A small view with known numbers, shared by the tests of the pages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sparsify_cli.pages.view import Exemplar, Layer, LineageStep, Reliability, Stage, View
from sparsify_cli.values.condition import Condition
from sparsify_cli.values.report import Finding, Report


def accuracy(value: Any, of: Any = "compressed", scope: str = "all", low: float | None = None, high: float | None = None) -> Finding:
    """One finding of accuracy over 360 samples."""
    return Finding(name="accuracy", value=value, unit="fraction", n=360, of=of, scope=scope, low=low, high=high, better="higher")


def compressed(change: float = -0.006, low: float = -0.017, high: float = 0.005) -> Report:
    """Dense 97.8 %, compressed lower by `change`; class 8 loses 10 points beyond noise; class 3 loses 1 within it."""
    return Report(
        (
            accuracy(0.978, "dense", low=0.957, high=0.989),
            accuracy(0.978 + change, low=0.95, high=0.985),
            accuracy(change, "change", low=low, high=high),
            *(accuracy(1.0, "dense", f"class:{c}") for c in (3, 8)),
            accuracy(0.99, scope="class:3"),
            accuracy(-0.01, "change", "class:3", -0.05, 0.03),
            accuracy(0.9, scope="class:8"),
            accuracy(-0.1, "change", "class:8", -0.18, -0.02),
            replace(accuracy(None, scope="group:slant=right"), n=3, note="only 3 samples"),
            Finding(name="ece", value=0.02, unit="fraction", better="lower"),
            Finding(name="ece", value=0.01, unit="fraction", of="dense", better="lower"),
            Finding(name="sparsity", value=0.9, unit="fraction"),
            Finding(name="bytes_dense", value=158312.0, unit="bytes"),
            Finding(name="bytes_disk", value=158312.0, unit="bytes", of="dense"),
            Finding(name="bytes_packed", value=23104.0, unit="bytes"),
            Finding(name="latency_ms", value=0.413, unit="ms", low=0.40, high=0.44),
            Finding(name="latency_ms", value=0.412, unit="ms", of="dense"),
            Finding(name="oddity", value=2.5, unit="furlongs", definition="How odd it is."),
        )
    )


def view(**changes: Any) -> View:
    """Dense and pruned, with one of everything."""
    fields: dict[str, Any] = {
        "title": "Pruned against dense",
        "stages": (
            Stage("dense", "train", "runs/001", {}, Report()),
            Stage("pruned", "prune", "runs/002", {"sparsity": "0.9"}, compressed()),
        ),
        "layers": (Layer("conv.weight", (16, 1, 3, 3), 144, 72), Layer("fc.weight", (10, 32), 320, 32)),
        "exemplars": (Exemplar("test-7", [[[0.0, 1.0], [1.0, 0.0]]], "8", "8", "3", 0.9, 0.6, {"slant": "left"}),),
        "reliability": (Reliability("dense", [(0.9, 0.91, 300), (0.6, 0.5, 60)]), Reliability("pruned", [(0.9, 0.8, 360), (0.1, 0.0, 0)])),
        "lineage": (LineageStep("pruned", "prune", "runs/002", "ab" * 32, "Magnitude, 90 %."),),
        "environment": {"torch": "2.13.0"},
        "gates": (Condition("change.accuracy>=-0.015", ">=", -0.015, accuracy(-0.006, "change"), True),),
    }
    return View(**{**fields, **changes})
