"""Nesting under everything a training loop has: decay, averages, 16 bits, an interruption. What is frozen keeps its bits."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sparsify_cli.stages.embed import logits_digest
from sparsify_cli.stages.subject import open_path, with_context
from tests.cli.conftest import Run
from tests.cli.test_stopped import stopped

LEVELS = ("0.9", "0.5", "0")
LOOPS = [
    "--optimizer sgd --momentum 0.9 --nesterov --weight-decay 0.001",
    "--optimizer adamw --lr 0.003 --weight-decay 0.1 --average 0.9",
    pytest.param("--precision bf16-mixed --average 0.99 --clip 1", marks=pytest.mark.slow),
    pytest.param("--precision bf16-mixed --optimizer adamw --lr 0.003 --accumulate 2 --regime rigl", marks=pytest.mark.slow),
]


def extracted(run: Run, folder: str) -> list[dict[str, torch.Tensor]]:
    """The tensors of every level, taken out of the file."""
    for level in LEVELS:
        assert run(f"extract {folder} --level {level} --out {folder}-{level}").code == 0
    return [load_file(f"{folder}-{level}/model.safetensors") for level in LEVELS]


@pytest.mark.parametrize("loop", LOOPS)
def test_frozen_weights_keep_their_bits(here: Path, run: Run, loop: str) -> None:
    """Every level answers as the network that was trained did, to the last bit; its weights stand in the next level as they are."""
    said = run(f"embed --arch mlp --data digits --levels {','.join(LEVELS)} --epochs 2 --regime gmp {loop} --out nest")
    assert said.code == 0, said.err
    trained = json.loads(Path("nest/manifest.json").read_text())["facts"]["logits_sha256"]
    levels = extracted(run, "nest")
    for number, level in enumerate(LEVELS):
        network = with_context(open_path(Path(f"nest-{level}")), ("mlp", ()), ("digits", ()))
        assert logits_digest(network) == trained[number]
    for sparser, denser in pairwise(levels):
        for name in ("fc1.weight", "fc2.weight"):
            held = sparser[name] != 0
            assert 0 < int(held.sum()) < int((denser[name] != 0).sum())
            assert torch.equal(sparser[name][held], denser[name][held])


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS[1:3])
def test_an_interrupted_nest_ends_with_the_same_bits(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch, loop: str) -> None:
    """Stopped in the second level, averages and all, and resumed."""
    line = f"embed --arch mlp --data digits --levels 0.9,0.5 --epochs 2 {loop}"
    assert run(f"{line} --out whole").code == 0
    said = stopped(run, monkeypatch, f"{line} --out halved")
    assert said.code == 130 and "embed --resume halved" in said.sentence
    assert run("embed --resume halved").code == 0
    assert [path.read_bytes() for path in sorted(Path("whole").glob("*.safetensors"))] == [
        path.read_bytes() for path in sorted(Path("halved").glob("*.safetensors"))
    ]


@pytest.mark.parametrize(("flags", "words"), [("--keep best", "its best epoch or its average"), ("--epochs 0", "Nothing is averaged")])
def test_averages_that_mean_nothing(here: Path, run: Run, flags: str, words: str) -> None:
    """Refused with one sentence."""
    said = run(f"embed --arch mlp --data digits --levels 0.9 --average 0.9 {flags}")
    assert said.code == 2 and words in said.sentence
