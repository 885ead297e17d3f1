"""Checkpoints and artifacts that are damaged, hostile or strange: one sentence, exit 2, nothing run, nothing changed."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.cli.conftest import NAMES, Run, content, names, state

DENSE, PRUNED, TUNED, NEST, MEMO = (f"runs/{NAMES[key]}" for key in ("dense", "pruned", "tuned", "nest", "memo"))

KINDS: dict[str, Callable[[Path], object]] = {
    "zip.pt": lambda path: torch.save(state(), path),
    "legacy.pt": lambda path: torch.save(state(), path, _use_new_zipfile_serialization=False),
    "plain.safetensors": lambda path: save_file(state(), path),
}


@pytest.mark.parametrize("share", [0.001, 0.01, 0.3, 0.6, 0.95, 0.999])
@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_checkpoint(kind: str, share: float, tmp_path: Path, run: Run) -> None:
    """Cut anywhere, a checkpoint is refused by name; the file stays as it is."""
    path = Path(kind)
    KINDS[kind](path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    before = content(tmp_path)
    said = run(f"prune {kind} --sparsity 0.5")
    assert said.code == 2
    assert kind in said.sentence
    assert content(tmp_path) == before


class Hostile:
    """Unpickled as code, it would create the file `pwned`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("pwned", "w"))


HOSTILE: dict[str, Callable[[Path], object]] = {
    "plain": lambda path: path.write_bytes(pickle.dumps(Hostile())),
    "protocol 2": lambda path: path.write_bytes(pickle.dumps({"a": Hostile()}, protocol=2)),
    "legacy": lambda path: torch.save({"a": Hostile()}, path, _use_new_zipfile_serialization=False),
    "zip": lambda path: torch.save({"a": Hostile()}, path),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("verb", ["prune evil.pt --sparsity 0.5", "inspect evil.pt"])
def test_a_pickle_that_would_run_code(kind: str, verb: str, run: Run) -> None:
    """It is refused with the name of what it would run, and does not run."""
    HOSTILE[kind](Path("evil.pt"))
    said = run(verb)
    assert said.code == 2
    assert "evil.pt is a pickle that needs code" in said.sentence and "io.open" in said.sentence
    assert names(".") == ["evil.pt"]


def quantized() -> torch.Tensor:
    """A tensor of torch's quantized kind."""
    return torch.quantize_per_tensor(torch.randn(8, 8), 0.1, 0, torch.qint8)


STRANGE: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "empty": (lambda path: path.write_bytes(b""), ["is empty"]),
    "random": (lambda path: path.write_bytes(random.Random(1).randbytes(5000)), ["cannot be read"]),
    "text": (lambda path: path.write_text("hello\n"), ["cannot be read"]),
    "json": (lambda path: path.write_text('{"a": 1}'), ["cannot be read"]),
    "one byte": (lambda path: path.write_bytes(b"\x80"), ["cannot be read"]),
    "list": (lambda path: torch.save([1, 2], path), ["no named tensors", "list"]),
    "tensor": (lambda path: torch.save(torch.zeros(3), path), ["no named tensors", "Tensor"]),
    "no entries": (lambda path: torch.save({}, path), ["no named tensors", "nothing"]),
    "no weights": (lambda path: torch.save({"epoch": 3, "lr": 0.1}, path), ["no named tensors", "epoch (int 3), lr"]),
    "a whole module": (lambda path: torch.save(nn.Linear(3, 3), path), ["needs code", "Linear"]),
    "only biases": (lambda path: torch.save({"bias": torch.ones(5)}, path), ["No tensor", "1 tensors", "bias"]),
    "sparse": (lambda path: torch.save({"w.weight": torch.eye(8).to_sparse()}, path), ["w.weight", "sparse"]),
    "meta": (lambda path: torch.save({"w.weight": torch.empty(8, 8, device="meta")}, path), ["w.weight", "meta"]),
    "quantized": (lambda path: torch.save({"w.weight": quantized()}, path), ["w.weight", "quantized"]),
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_strange_file(kind: str, run: Run) -> None:
    """Whatever is no checkpoint, or holds what cannot be pruned, is refused with what it is."""
    write, words = STRANGE[kind]
    write(Path("model.pt"))
    said = run("prune model.pt --sparsity 0.5")
    assert said.code == 2
    assert [word for word in ["model.pt", *words] if word not in said.sentence] == []
    assert names(".") == ["model.pt"]


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """Change a manifest's values."""

    def write(path: Path) -> None:
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return write


def flip(path: Path) -> None:
    """Flip one bit near the end of a file."""
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[str, str, Callable[[Path], object], str]] = {
    "cut manifest": (f"validate {PRUNED}", f"{PRUNED}/manifest.json", lambda p: p.write_text(p.read_text()[:500]), "not JSON"),
    "deep manifest": (f"validate {PRUNED}", f"{PRUNED}/manifest.json", lambda p: p.write_text("[" * 100_000), "damaged"),
    "another schema": (f"validate {PRUNED}", f"{PRUNED}/manifest.json", lambda p: p.write_text("{}"), "sparsify/artifact/1"),
    "no verb": (f"inspect {PRUNED}", f"{PRUNED}/manifest.json", edited(lambda m: m.pop("verb")), "verb"),
    "odd weights": (f"validate {PRUNED}", f"{PRUNED}/manifest.json", edited(lambda m: m.update(weights="x")), "weights"),
    "odd architecture": (
        f"validate {PRUNED}",
        f"{PRUNED}/manifest.json",
        edited(lambda m: m.update(architecture={"nam": 1})),
        "architecture",
    ),
    "odd numbers": (f"inspect {PRUNED}", f"{PRUNED}/manifest.json", edited(lambda m: m.update(numbers=[3])), "numbers"),
    "changed weights": (f"validate {PRUNED}", f"{PRUNED}/model.safetensors", flip, "sha256"),
    "changed masks": (f"finetune {PRUNED}", f"{PRUNED}/masks.safetensors", flip, "sha256"),
    "changed nest": (f"extract {NEST} --level 0.5", f"{NEST}/nest.safetensors", flip, "sha256"),
    "changed memo": (f"unlearn {DENSE} --forget class:3 --memo {MEMO}", f"{MEMO}/memo.safetensors", flip, "sha256"),
    "no weights": (f"validate {PRUNED}", f"{PRUNED}/model.safetensors", Path.unlink, "gone"),
    "no masks": (f"finetune {PRUNED}", f"{PRUNED}/masks.safetensors", Path.unlink, "gone"),
    "no nest": (f"extract {NEST} --level 0.5", f"{NEST}/nest.safetensors", Path.unlink, "gone"),
    "parent gone": (f"report {PRUNED}", DENSE, shutil.rmtree, "parent"),
    "parent changed": (f"report {PRUNED}", f"{DENSE}/manifest.json", edited(lambda m: m.update(weights=None)), DENSE),
    "teacher gone": (f"finetune {PRUNED} --objective distill", DENSE, shutil.rmtree, "parent"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_artifact(case: str, here: Path, run: Run) -> None:
    """A file that changed or went away since it was written is noticed and named; nothing else changes."""
    line, target, damage, word = DAMAGE[case]
    damage(Path(target))
    before = content(here)
    said = run(line)
    assert said.code == 2
    assert word in said.sentence
    assert content(here) == before


def test_finetune_goes_on_without_its_ancestor(here: Path, run: Run) -> None:
    """Training that needs no teacher is not lost because the dense parent was deleted."""
    shutil.rmtree(DENSE)
    said = run(f"finetune {PRUNED} --epochs 1 --format json")
    assert said.code == 0
    assert [f["of"] for f in json.loads(said.out)["findings"] if f["name"] == "accuracy" and f["scope"] == "all"] == ["compressed"]


FUZZED = {**{name: ("prune {} --sparsity 0.5 --out out", write) for name, write in KINDS.items()}, "manifest": (f"validate {PRUNED}", None)}


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A few bytes of `data` changed, cut out or doubled, most often near the beginning, where structure is."""
    bytes_ = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = min(int(chance.paretovariate(0.3)), len(bytes_) - 1) if chance.random() < 0.5 else chance.randrange(len(bytes_))
        change = chance.choice(("set", "cut", "double"))
        if change == "set":
            bytes_[at] = chance.randrange(256)
        elif change == "cut":
            del bytes_[at : at + chance.randint(1, 9)]
        else:
            bytes_[at:at] = bytes_[at : at + chance.randint(1, 9)]
    return bytes(bytes_)


def fuzz(name: str, seeds: range, run: Run) -> None:
    """Run a verb on mutated bytes: exit 0, or 1 or 2 with one sentence."""
    line, write = FUZZED[name]
    path = Path(PRUNED, "manifest.json") if write is None else Path(name)
    if write is not None:
        write(path)
    whole = path.read_bytes()
    for seed in seeds:
        path.write_bytes(mutated(whole, random.Random(seed)))
        said = run(line.format(name))
        assert said.code in (0, 1, 2), f"seed {seed}"
        assert said.code == 0 or said.sentence
        shutil.rmtree("out", ignore_errors=True)


@pytest.mark.parametrize("name", FUZZED)
def test_mutated_bytes(name: str, here: Path, run: Run) -> None:
    """Fifteen mutations of each kind of file: never a traceback."""
    fuzz(name, range(15), run)
    assert not Path("pwned").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", FUZZED)
def test_many_mutated_bytes(name: str, here: Path, run: Run) -> None:
    """Four hundred mutations of each kind of file: never a traceback."""
    fuzz(name, range(1000, 1400), run)
    assert not Path("pwned").exists()
