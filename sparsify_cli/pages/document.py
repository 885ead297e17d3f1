"""`report.json`: a view as plain JSON values, for pipelines; its schema is `report.schema.json`.

Strict: NaN and infinity become null. Pixels are left out: ids name the samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sparsify_cli.pages.against_sparsity import harm, headline, points
from sparsify_cli.pages.view import View
from sparsify_cli.values.condition import Condition

SCHEMA = "sparsify/report/1"


def to_json(view: View) -> dict[str, Any]:
    """The whole page."""
    document = {
        "schema": SCHEMA,
        "title": view.title,
        "verdict": headline(view),
        "subject": view.index,
        "stages": [{**_fields(stage), "recipe": dict(stage.recipe), "report": stage.report.to_json()} for stage in view.stages],
        "sweep": _sweep(view),
        "layers": [{**asdict(layer), "sparsity": layer.sparsity} for layer in view.layers],
        "exemplars": [{k: v for k, v in _fields(e).items() if k != "image"} for e in view.exemplars],
        "reliability": [{"name": name, "bins": [list(row) for row in bins]} for name, bins in view.reliability],
        "lineage": [asdict(step) for step in view.lineage],
        "environment": dict(view.environment),
        "gates": [_gate(one) for one in view.gates],
        "notes": list(view.notes),
        "models": view.models,
        "certificates": [asdict(one) for one in view.certificates],
    }
    found: dict[str, Any] = plain(document)
    return found


def _gate(one: Condition) -> dict[str, Any]:
    finding = one.finding
    about = {"name": finding.name, "of": finding.of, "scope": finding.scope, "value": finding.value}
    return {"gate": one.text, "holds": one.holds, **about, "sign": one.sign, "bound": one.bound, "sentence": one.sentence}


def _sweep(view: View) -> dict[str, Any] | None:
    """Where harm starts, and what became of the network at each sparsity; None where there are fewer than three."""
    found = points(view)
    if not found:
        return None
    each = [{"stage": p.index, "sparsity": p.sparsity, "regime": p.regime, "unbeaten": list(p.unbeaten)} for p in found]
    return {**harm(found)._asdict(), "networks": each}


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def plain(value: Any) -> Any:
    """Values that any reader of JSON takes."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "item"):
        return plain(value.item())
    return value if isinstance(value, str | bool | int | None) else str(value)
