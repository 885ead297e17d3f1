"""Pruning of several files: killed at any moment it goes on, and ends as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sparsify_cli.stages import streamed
from tests.cli.conftest import Run


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three shards, with many ties among its weights."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "llama"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    index = {}
    for shard in range(3):
        name = f"model-{shard + 1:05d}-of-00003.safetensors"
        tensors = {f"layers.{shard}.{part}.weight": (torch.randint(-9, 10, (32, 24), generator=generator) / 8).bfloat16() for part in "ab"}
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 9216}, "weight_map": index}))
    (folder / "config.json").write_text('{"model_type": "none"}')
    return folder


def digests(folder: Path) -> dict[str, str]:
    """Every file but the manifest, which holds the time."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stop_after(monkeypatch: pytest.MonkeyPatch, files: int, error: BaseException) -> None:
    """Let so many files be written, then fail."""
    done = []
    write = streamed.write_copy

    def limited(*args: object, **options: object) -> dict[str, int]:
        if len(done) == files:
            raise error
        done.append(1)
        return write(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(streamed, "write_copy", limited)


@pytest.mark.parametrize(
    "options", ["--sparsity 0.7", "--pattern 2:4", "--sparsity 0.8 --allocation uniform", "--sparsity 0.6 --pattern 2:4"]
)
@pytest.mark.parametrize("files", [1, 2])
def test_an_interrupted_run_goes_on(options: str, files: int, model: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after some shards: exit 130 and the command that continues; the result equals the uninterrupted one byte for byte."""
    assert run(f"prune llama {options} --out whole").code == 0
    with monkeypatch.context() as patch:
        stop_after(patch, files, KeyboardInterrupt())
        said = run(f"prune llama {options} --out cut")
    assert said.code == 130
    assert "sparsify prune --resume cut" in said.sentence
    assert len(list(Path("cut/model").glob("model-*"))) == files
    assert run("inspect cut").code == 0
    assert run("prune --resume cut").code == 0
    assert digests(Path("cut")) == digests(Path("whole"))


def test_what_a_killed_writer_left_is_swept(model: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unfinished shard of a killed process does not stay in the folder."""
    assert run("prune llama --sparsity 0.7 --out whole").code == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 1, KeyboardInterrupt())
        run("prune llama --sparsity 0.7 --out cut")
    Path("cut/model/.0123abcd-model-00002-of-00003.safetensors").write_bytes(b"half")
    assert run("prune --resume cut").code == 0
    assert digests(Path("cut")) == digests(Path("whole"))


def test_another_original_is_not_mixed_in(model: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of the original, or one that was written, that changed in the meantime: a sentence, exit 2, nothing touched."""
    with monkeypatch.context() as patch:
        stop_after(patch, 1, KeyboardInterrupt())
        run("prune llama --sparsity 0.7 --out cut")
    first = Path("cut/model/model-00001-of-00003.safetensors")
    written, original = first.read_bytes(), (model / first.name).read_bytes()
    first.write_bytes(written[:-1] + b"\x01")
    assert "is not what was written" in run("prune --resume cut").sentence
    first.write_bytes(written)
    (model / first.name).write_bytes(original[:-1] + b"\x01")
    said = run("prune --resume cut")
    assert (said.code, "is not what cut started from" in said.sentence) == (2, True)
    (model / first.name).write_bytes(original)
    assert run("prune --resume cut").code == 0


def test_a_failed_run_leaves_nothing(model: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failing in the first shard leaves no folder; the original is as it was."""
    before = digests(model)
    stop_after(monkeypatch, 0, OSError(28, "No space left on device"))
    said = run("prune llama --sparsity 0.7 --out cut")
    assert (said.code, Path("cut").exists()) == (1, False)
    assert digests(model) == before


def test_finished_runs_are_not_resumed(model: Path, run: Run) -> None:
    """There is nothing to go on with."""
    assert run("prune llama --sparsity 0.7 --out whole").code == 0
    assert run("prune --resume whole").code == 2
