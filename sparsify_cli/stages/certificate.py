"""The certificate of an erasure, `unlearning.json`: what was forgotten, from which network, how, and what was measured.

Samples are named by hashes alone, so that the certificate can be handed on. It certifies measurements: an approximate method gives no
proof of erasure, and the certificate says so itself.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sparsify_cli.contracts.unlearner import Request
from sparsify_cli.errors import SparsifyError
from sparsify_cli.recipes.option import Choice
from sparsify_cli.stages.origin import versions
from sparsify_cli.stages.unchanged import NOTHING
from sparsify_cli.stages.write import data_identity
from sparsify_cli.values.artifact import CERTIFICATE, MEMO, Artifact
from sparsify_cli.values.atomic import replace_file
from sparsify_cli.values.file_hash import sha256_of
from sparsify_cli.values.report import Finding

SCHEMA = "sparsify/unlearning/1"
VERDICTS = ("passed", "failed", "measured")
EXACT = ("retrain",)
"""Methods after which nothing of the samples is left in the weights."""
LIMITS = {
    True: "The network was trained anew without the samples. Choices made with them before (masks, architecture, settings) remain.",
    False: "The method is approximate: the measurements below are evidence, not a proof that nothing of the samples is left.",
}


@dataclass(frozen=True, eq=False)
class Certificate:
    """What is certified.

    Args:
        method: of forgetting, with the options that were given.
        options: every option of it, defaults included.
        request: the samples.
        before, after: sha256 of the weights' files.
        masks: digest of the masks, empty for a dense network.
        seed: of every draw.
        findings: the numbers.
        gates: a sentence for each condition.
        failure: the condition that did not hold.
        references: sha256 of the networks trained anew: none, one or two.
        memo: artifact the erasure was prepared in, empty for none.
        asked: what `--forget` was given.
        unchanged: no weight changed, so that nothing was forgotten.
    """

    method: Choice
    request: Request
    before: str
    after: str
    masks: str
    seed: int
    findings: Iterable[Finding]
    gates: tuple[str, ...] = ()
    failure: SparsifyError | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    references: tuple[str, ...] = ()
    memo: str = ""
    asked: str = ""
    unchanged: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        forget = self.request.forget
        return {
            "schema": SCHEMA,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "verdict": self._verdict(),
            "failure": "" if self.failure is None else str(self.failure),
            "limits": NOTHING if self.unchanged else LIMITS[self.method.name in EXACT],
            "unchanged": self.unchanged,
            "asked": self.asked,
            "forgotten": {"samples": len(forget), "ids_sha256": ids_digest(forget.ids), "data_sha256": data_identity(forget)},
            "retained": {"samples": len(self.request.retain), "ids_sha256": ids_digest(self.request.retain.ids)},
            "model": {"before_sha256": self.before, "after_sha256": self.after, "masks_sha256": self.masks},
            "reference_sha256": self.references[0] if self.references else "",
            "references_sha256": list(self.references),
            "method": {
                "name": self.method.name,
                "options": dict(self.options or self.method.options),
                "seed": self.seed,
                "memo": self.memo,
                "memo_sha256": sha256_of(Path(self.memo) / MEMO) if self.memo else "",
            },
            "gates": list(self.gates),
            "numbers": [asdict(finding) for finding in self.findings],
            "versions": versions(),
        }

    def _verdict(self) -> str:
        if self.failure is not None:
            return "failed"
        return "passed" if self.gates else "measured"

    def write(self, folder: Path) -> Path:
        """Write `unlearning.json`, atomically."""
        text = json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"
        replace_file(folder / CERTIFICATE, lambda path: path.write_text(text, encoding="utf-8"))
        return folder / CERTIFICATE


def ids_digest(ids: Iterable[str]) -> str:
    """sha256 over ids in alphabetical order, one a line; the same for any order."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def read_certificate(artifact: Artifact) -> Mapping[str, Any] | None:
    """The certificate in an artifact, made sure to be the one that was written; None where there is none of this version.

    Raises:
        MissingFile, UnreadableFile: it is gone, or another one.
    """
    path = artifact.verified(CERTIFICATE)
    if path is None:
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) and found.get("schema") == SCHEMA and _is_whole(found) else None


def _is_whole(found: Mapping[str, Any]) -> bool:
    """Whether what pages show is there, in the shape they count on."""
    parts = [found.get(key) for key in ("forgotten", "retained", "model", "method")]
    if found.get("verdict") not in VERDICTS or not all(isinstance(part, dict) for part in parts):
        return False
    counts = [part.get("samples") for part in parts[:2] if part]
    texts = [found.get("limits"), found.get("reference_sha256"), *((parts[2] or {}).get(key) for key in ("before_sha256", "after_sha256"))]
    texts += [(parts[0] or {}).get("ids_sha256"), (parts[3] or {}).get("name"), found.get("failure", "")]
    lists = [found.get(key) or [] for key in ("gates", "references_sha256")]
    if not all(isinstance(one, list) for one in lists):
        return False
    texts += [text for one in lists for text in one]
    options = (parts[3] or {}).get("options")
    return all(isinstance(n, int) for n in counts) and all(isinstance(t, str) for t in texts) and isinstance(options, dict)
