"""The manifest beside a nest vouches for the header of its file; the header vouches for the bytes of every level."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sparsify_cli.errors import SparsifyError, UnreadableFile
from sparsify_cli.values.artifact import AGAIN, MANIFEST
from sparsify_cli.values.nest_plan import Plan
from sparsify_cli.values.ranges import Ranges, is_url, ranges


def require_header(plan: Plan, manifest: Mapping[str, Any], source: str | Path) -> None:
    """Refuse a file whose header is not the one its manifest knows; a manifest that knows none says nothing.

    Raises:
        UnreadableFile: it is another.
    """
    known = (manifest.get("weights") or {}).get("header_sha256", plan.sha256)
    if known != plan.sha256:
        why = f"The sha256 of its header is {plan.sha256[:12]}..., the manifest says {str(known)[:12]}...."
        raise UnreadableFile(f"{source} is not the file its manifest describes.", why, f"It was changed or damaged since. {AGAIN}")


def manifest_in(folder: str | Path) -> dict[str, Any]:
    """The manifest in a folder; nothing where there is none, nor where a server gives none that can be read.

    Raises:
        UnreadableFile: one in a folder here is no JSON object.
    """
    if is_url(str(folder)):  # a server may answer anything, for what it has not
        with suppress(SparsifyError), ranges(f"{str(folder).rstrip('/')}/{MANIFEST}") as source:
            return _read(source, MANIFEST)
    elif (Path(folder) / MANIFEST).is_file():
        with ranges(Path(folder) / MANIFEST) as source:
            return _read(source, str(Path(folder) / MANIFEST))
    return {}


def _read(source: Ranges, name: str) -> dict[str, Any]:
    try:
        found = json.loads(source.take(0, source.size))
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(f"{name} is not valid JSON.", "It is damaged.", AGAIN) from error
    if not isinstance(found, dict) or not isinstance(found.get("weights") or {}, dict):
        raise UnreadableFile(f"{name} is no manifest.", "It is no object, or its `weights` are none.", AGAIN)
    return found
