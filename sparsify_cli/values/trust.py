"""Trust: whether code that a manifest names was named by this user on this machine.

An artifact remembers `net.py:Net` so that nobody has to type it again; but artifacts are passed around, and a manifest
that names code must not run it on somebody else's machine. Specs that name code are sealed with a key that never leaves
this user's state folder; without a matching seal they have to be typed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAMES_CODE = ":"
"""A spec whose name holds this is a callable of the user's; shelf names hold none."""


def seal(specs: Mapping[str, Any]) -> str:
    """A seal over plain JSON values; empty when there is no place to keep a key."""
    key = _key(create=True)
    return hmac.new(key, _canonical(specs), hashlib.sha256).hexdigest() if key else ""


def is_sealed(specs: Mapping[str, Any], given: str) -> bool:
    """True when `given` is the seal this user made over these values."""
    key = _key(create=False)
    return bool(key and given) and hmac.compare_digest(hmac.new(key or b"", _canonical(specs), hashlib.sha256).hexdigest(), given)


def trusts_pickle(manifest: Mapping[str, Any]) -> bool:
    """True when this user, on this machine, made an artifact with --trust-pickle; what somebody else's manifest says does not count."""
    weights = manifest.get("weights") or {}
    return is_sealed(pickle_trust(str(weights.get("sha256"))), str(manifest.get("pickle_seal", "")))


def pickle_trust(weights: str) -> dict[str, str]:
    """What is sealed when a user trusts the pickle with these weights (their sha256)."""
    return {"trusted pickle": weights}


def _canonical(specs: Mapping[str, Any]) -> bytes:
    return json.dumps(specs, sort_keys=True).encode()


def _key(*, create: bool) -> bytes | None:
    base = os.environ.get("XDG_STATE_HOME")
    try:
        path = (Path(base) if base else Path.home() / ".local" / "state") / "sparsify" / "key"
        if not path.exists() and create:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_once(path)
        return path.read_bytes() or None
    except (OSError, RuntimeError):  # no home, or a read-only one: nothing is trusted, everything is typed again
        return None


def _write_once(path: Path) -> None:
    """Create the key whole: another process sees none or all of it, and the first one wins."""
    temporary = path.with_name(f".{secrets.token_hex(4)}")
    temporary.touch(mode=0o600)
    temporary.write_bytes(secrets.token_bytes(32))
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()
