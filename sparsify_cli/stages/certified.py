"""What a page shows of the certificate of forgetting that lies beside an artifact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sparsify_cli.pages.view import Certified
from sparsify_cli.stages.audit import audit_notes, audit_tables
from sparsify_cli.stages.certificate import read_certificate
from sparsify_cli.values.artifact import Artifact
from sparsify_cli.values.report import Report


def certified(name: str, artifact: Artifact | None, report: Report) -> Certified | None:
    """The certificate and the audit; None where there is no certificate.

    Args:
        name: what the network is called.
        artifact: it and what lies beside it.
        report: what was measured of it.
    """
    found = read_certificate(artifact) if artifact is not None else None
    if found is None:
        return None
    audit = audit_tables(report.findings) if report.get("distance_forget_before") else ()
    tables = tuple((table.title, table.columns, table.rows) for table in audit)
    notes = tuple(note[:1].upper() + note[1:] for note in audit_notes(report.findings))
    return Certified(name, found["verdict"], found["limits"], tuple(_facts(found)), tables, notes)


def _facts(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    forgotten, method, model = found["forgotten"], found["method"], found["model"]
    options = ", ".join(f"{key} {value}" for key, value in method["options"].items() if value not in (None, ""))
    yield (
        "Samples to forget, none forgotten" if found.get("unchanged") else "Samples forgotten",
        f"{forgotten['samples']:,} of {forgotten['samples'] + found['retained']['samples']:,}",
    )
    yield "sha256 of their ids, sorted", _short(forgotten["ids_sha256"])
    yield "Method", f"{method['name']} ({options})"
    yield "sha256 of the weights before", _short(model["before_sha256"])
    yield "sha256 of the weights after", _short(model["after_sha256"])
    for digest in filter(None, found.get("references_sha256") or [found["reference_sha256"]]):
        yield "sha256 of a network trained anew", _short(digest)
    for gate in found["gates"]:
        yield "Condition", gate
    if found.get("failure"):
        yield "Why it failed", str(found["failure"])


def _short(digest: str) -> str:
    return f"{digest[:16]}…" if len(digest) > 16 else digest
