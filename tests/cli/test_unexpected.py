"""What nobody foresaw is still one sentence: bugs, no memory, a terminal without the letters, torchrun where it does not belong."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import torch

from sparsify_cli.cli.app import main
from sparsify_cli.errors import BadData
from tests.cli.conftest import NAMES, Run, content

DENSE = f"runs/{NAMES['dense']}"
PRUNE = "prune model.pt --sparsity 0.5"


def broken(error: Exception):
    """A function that raises."""

    def stage(*_: object, **__: object) -> None:
        raise error

    return stage


def test_a_bug_is_one_sentence(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other exception: exit 1, its type and words, and how to see where; SPARSIFY_DEBUG=1 re-raises it."""
    monkeypatch.setattr("sparsify_cli.stages.prune.prune", broken(TypeError("two\nlines")))
    said = run(PRUNE)
    assert said.code == 1
    assert "TypeError: two." in said.sentence and "SPARSIFY_DEBUG=1" in said.sentence
    monkeypatch.setenv("SPARSIFY_DEBUG", "1")
    with pytest.raises(TypeError, match="two"):
        run(PRUNE)


def wrapped() -> BadData:
    """An error of ours that stands for torch's."""
    error = BadData("The network does not take the data.")
    error.__cause__ = RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")
    return error


ENOUGH = [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), wrapped()]


@pytest.mark.parametrize("error", ENOUGH, ids=lambda error: type(error).__name__)
def test_no_memory_is_said(error: Exception, here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the lack of memory is reported: exit 1, and batch size and width as what to change."""
    monkeypatch.setattr("sparsify_cli.stages.prune.prune", broken(error))
    said = run(PRUNE)
    assert said.code == 1
    assert "Out of memory" in said.sentence and "--batch-size" in said.sentence and "--arch-arg" in said.sentence


def test_a_terminal_without_the_letters(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ASCII stdout gets question marks for what it cannot show."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["list", "--format", "human"]) == 0
    stream.write("\u2192")
    stream.flush()
    assert stream.buffer.getvalue().endswith(b"?")


@pytest.mark.parametrize(("rank", "code"), [("0", 2), ("1", 0)])
def test_torchrun_is_refused_by_verbs_that_do_not_train(rank: str, code: int, here: Path, run: Run, monkeypatch) -> None:
    """The first process says so, the others are silent, and nothing is written."""
    before = content(here)
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": rank}.items():
        monkeypatch.setenv(name, value)
    said = run(PRUNE)
    assert said.code == code
    assert ("`prune` does not run under torchrun" in said.err) == (code == 2)
    assert content(here) == before


def test_what_is_forgotten_is_counted_once(here: Path, run: Run) -> None:
    """A second erasure divides by what is left, both lists add up in the manifest, and a class is not forgotten twice."""
    assert run(f"unlearn {DENSE} --forget class:3 --out once").code == 0
    assert run("unlearn once --forget class:4 --out twice").code == 0
    once, twice = (json.loads(Path(name, "manifest.json").read_text())["facts"] for name in ("once", "twice"))
    assert twice["retained"] == once["retained"] - twice["forgotten"]
    assert len(twice["forgotten_ids"]) == once["forgotten"] + twice["forgotten"]
    again = run("unlearn twice --forget class:3")
    assert again.code == 2
    assert "forgotten already" in again.sentence
    assert run("prune twice --sparsity 0.5 --out sparse").code == 0
    assert json.loads(Path("sparse/manifest.json").read_text())["facts"]["forgotten_ids"] == twice["forgotten_ids"]


def test_a_memo_of_other_samples_is_refused(here: Path, run: Run) -> None:
    """A memo whose training samples were others is refused with both digests."""
    path = Path(f"runs/{NAMES['memo']}/manifest.json")
    manifest = json.loads(path.read_text())
    manifest["facts"]["data_sha256"] = "f" * 64
    path.write_text(json.dumps(manifest))
    said = run(f"unlearn {DENSE} --memo {path.parent} --forget class:3")
    assert said.code == 2
    assert "ffffffffffff" in said.sentence and "prepare again" in said.sentence


def test_double_precision_trains(here: Path, run: Run) -> None:
    """--precision 64-true reaches the end of an epoch and of the run."""
    assert run("train --arch mlp --data digits --epochs 1 --precision 64-true --out wide").code == 0
