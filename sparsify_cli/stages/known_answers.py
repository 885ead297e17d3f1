"""Answers that were computed before are read again, by the bits of the network, its architecture and the samples.

They lie in $XDG_CACHE_HOME/sparsify (`~/.cache/sparsify`), a file for each network and split, of which the oldest go beyond 1 GB.
The code of an architecture may have changed while its name has not: the first batch is computed anew and has to give the same
answers, else all are. SPARSIFY_CACHE=off does without; where nothing can be written, nothing is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsify_cli.errors import DiskFailure, UnreadableFile
from sparsify_cli.stages.measure import answers, predict
from sparsify_cli.stages.subject import Subject
from sparsify_cli.stages.write import data_identity
from sparsify_cli.values.arrays import handy_batch
from sparsify_cli.values.mask_file import read_tensors, write_tensors
from sparsify_cli.values.positions import Positions
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.samples import Samples

MOST = 10**9
"""Bytes that are kept."""

CLOSE = 1e-5
"""By how much answers to the same batch may differ, relative to the largest: threads add up in another order."""

FEW = 8
"""Texts, or samples answered with numbers, of which the answers are checked."""

Parts = dict[str, Tensor]


def predicted(subject: Subject, samples: Samples) -> Predictions:
    """What `predict` gives for a network, computed or read."""
    found = _known(subject, samples, lambda module, some: {"logits": predict(module, some).logits})
    return Predictions(found["logits"], samples.targets.cpu(), samples.ids, samples.groups, samples.classes)


def answered(subject: Subject, samples: Samples) -> Positions:
    """What `answers` gives for a network, computed or read."""

    def parts(module: nn.Module, some: Samples) -> Parts:
        found = answers(module, some)
        return {"answers": found.answers, "losses": found.losses, "counted": found.counted}

    found = _known(subject, samples, parts)
    said, losses, counted = found["answers"], found["losses"], found["counted"]
    return Positions(samples.kind, said, samples.targets.flatten(1), losses, counted, samples.ids, samples.groups)


def _known(subject: Subject, samples: Samples, compute: Callable[[nn.Module, Samples], Parts]) -> Parts:
    module, folder = subject.module(), cache_folder()
    if folder is None or not len(samples):
        return compute(module, samples)
    file = folder / f"{_key(subject, module, samples)}.safetensors"
    read = _read(file)
    if read is not None and _still_true(
        read, compute(module, samples.take(range(min(len(samples), handy_batch(module) if samples.chooses else FEW))))
    ):
        return read
    found = compute(module, samples)
    with suppress(DiskFailure, OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(file, found)
        _make_room(folder)
    return found


def cache_folder() -> Path | None:
    """Where answers are kept; None where they are not."""
    if os.environ.get("SPARSIFY_CACHE", "").lower() in ("off", "0", "no"):
        return None
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "sparsify"
    except RuntimeError:  # nobody's home
        return None


def _key(subject: Subject, module: nn.Module, samples: Samples) -> str:
    """sha256 of everything that answers hang on but the code: weights, architecture, samples, version of torch."""
    state = hashlib.sha256(data_identity(samples).encode())
    state.update(json.dumps(subject.known_architecture().to_json(), sort_keys=True).encode())
    state.update(str(torch.__version__).encode())
    for name, tensor in sorted(module.state_dict().items()):
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def _read(file: Path) -> Parts | None:
    try:
        if not file.is_file():
            return None
        found, _ = read_tensors(file)
    except (UnreadableFile, OSError):
        return None
    with suppress(OSError):
        os.utime(file)  # what is used stays longest
    return found


def _still_true(read: Parts, first: Parts) -> bool:
    """True where the first batch gives what was kept."""
    return read.keys() == first.keys() and all(_alike(read[name][: len(part)], part) for name, part in first.items())


def _alike(kept: Tensor, now: Tensor) -> bool:
    if kept.shape != now.shape or kept.dtype != now.dtype:
        return False
    if not now.is_floating_point():
        return torch.equal(kept, now)
    return bool((kept - now).abs().max() <= CLOSE * (1 + now.abs().max()))


def _make_room(folder: Path) -> None:
    """Remove the files that were not used for longest, beyond the bytes that may be kept."""
    kept = [file for file in folder.glob("*.safetensors") if not file.name.startswith(".")]  # others are being written
    files = sorted(kept, key=lambda file: file.stat().st_mtime, reverse=True)
    total = 0
    for file in files:
        total += file.stat().st_size
        if total > MOST and file != files[0]:
            file.unlink(missing_ok=True)
