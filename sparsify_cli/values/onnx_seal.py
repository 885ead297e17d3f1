"""The seal of an ONNX file that this tool exported: the last field of the file, a SHA-256 over everything before it.

It is an entry of the model's metadata, written behind everything else, as protocol buffers allow: 21 bytes that are always
the same, then 64 hexadecimal digits. So it is found without parsing, and renewed in place when weights in the file change.
It tells damage; it is no signature, since anybody can write it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sparsify_cli.values.layout import Check

KEY = b"sparsify.sha256"
DIGITS = 64
HEAD = bytes((0x72, 2 + len(KEY) + 2 + DIGITS, 0x0A, len(KEY))) + KEY + bytes((0x12, DIGITS))
"""Field 14 (metadata_props) of a ModelProto; in it field 1 (key) whole, and of field 2 (value) all but its digits."""
LENGTH = len(HEAD) + DIGITS


def sealed(body: bytes) -> bytes:
    """The bytes of a model with their seal behind them."""
    return body + HEAD + _digits(body)


def holds(content: bytes) -> bool:
    """True when a file ends with a seal and it is that of what stands before it."""
    body, seal = content[:-LENGTH], content[-LENGTH:]
    return seal == HEAD + _digits(body)


def seal_check(path: Path) -> tuple[Check, ...]:
    """What is to be renewed when numbers in a file change: its seal, when it has one.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        body = max(0, os.fstat(file.fileno()).st_size - LENGTH)
        file.seek(body)
        tail = file.read(len(HEAD))
    return (Check(path.name, 0, body, (body + len(HEAD),), "sha256"),) if tail == HEAD else ()


def _digits(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()
