"""Teachers that know what a network has forgotten, and what later verbs say of a network that forgot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import NAMES, Run

DENSE, PRUNED, NEST = (f"runs/{NAMES[name]}" for name in ("dense", "pruned", "nest"))


@pytest.fixture
def erased(here, run: Run) -> str:
    """The pruned network without class 3: its dense ancestor knows that."""
    assert run(f"unlearn {PRUNED} --forget class:3 --most-harm 1 --out erased").code == 0
    return "erased"


@pytest.mark.parametrize("asked", ["finetune erased", f"finetune erased --teacher {DENSE}", "embed erased --levels 0.98,0.95"])
def test_a_teacher_that_saw_what_was_forgotten_is_refused(erased: str, run: Run, asked: str):
    """The dense ancestor, by default or named, of a network that forgot after it was pruned; nothing is written."""
    said = run(f"{asked} --objective distill --epochs 1 --out taught")
    gone = len(json.loads(Path("erased/manifest.json").read_text())["facts"]["forgotten_ids"])
    assert said.code == 2 and f"It was trained with {gone} samples that erased has forgotten" in said.sentence
    assert not Path("taught").exists()


def test_teachers_that_do_not_know_it_are_taken(erased: str, run: Run):
    """Itself; a network that forgot the same; labels; and the dense ancestor where that forgot first."""
    assert run("finetune erased --objective distill --teacher self --epochs 1 --out one").code == 0
    assert run("train --arch mlp --data digits --epochs 1 --without class:3 --out without").code == 0
    assert run("finetune erased --objective distill --teacher without --epochs 1 --out two").code == 0
    assert run("finetune erased --epochs 1 --out three").code == 0
    assert run(f"unlearn {DENSE} --forget class:3 --out first").code == 0
    assert run("prune first --sparsity 0.5 --out second").code == 0
    assert run("finetune second --objective distill --epochs 1 --out third").code == 0


def test_what_is_left_out_of_a_new_network_is_not_taught(here, run: Run):
    """A reference that learns from a network that saw the samples would be none."""
    said = run(f"train --arch mlp --data digits --without class:3 --objective distill --teacher {DENSE} --epochs 1 --out no")
    assert said.code == 2 and "has forgotten or never saw" in said.sentence


def test_a_loss_that_was_meant_is_said_to_be(here, run: Run):
    """A level taken out of an erased nest: its page says what was forgotten, and training blames neither itself nor the ancestor."""
    assert run(f"unlearn {NEST} --forget class:3 --most-harm 1 --out forgot").code == 0
    assert run("extract forgot --level 2 --out level").code == 0
    assert "has forgotten" in run("report level --out page").err
    assert "was meant to go" in Path("page/report.html").read_text()
    said = run("finetune level --epochs 1 --out tuned").err
    assert ("part of that is what the network was made to forget" in said) == ("accuracy fell from" in said)


def test_the_data_that_were_forgotten_from_decide(erased: str, run: Run):
    """On other data, whose samples have ids of their own, a teacher of those is taken; one that saw what is forgotten is not."""
    images = np.random.default_rng(0).random((60, 1, 8, 8), dtype=np.float32)
    labels = np.arange(60) % 10
    parts = {"train": slice(0, 40), "validation": slice(40, 50), "test": slice(50, 60)}
    arrays = {f"{letter}_{name}": whole[part] for name, part in parts.items() for letter, whole in (("x", images), ("y", labels))}
    np.savez("other.npz", **arrays)
    assert run("train --arch mlp --data npz:other.npz --epochs 1 --out stranger").code == 0
    assert run("train --arch mlp --data digits --epochs 1 --seed 5 --out again").code == 0
    asked = "finetune erased --data npz:other.npz --objective distill --epochs 1"
    taught = run(f"{asked} --teacher stranger --out one")
    assert taught.code == 0 and "the teacher stranger: nothing says that it was trained without" in taught.err
    said = run(f"{asked} --teacher again --out two")
    assert said.code == 2 and "again is no teacher for it" in said.sentence


def test_a_loss_that_was_not_meant_is_not_excused(here, run: Run):
    """The dense ancestor never saw what was left out either: a collapse is one."""
    assert run("train --arch mlp --data digits --epochs 3 --without class:3 --out without").code == 0
    assert run("prune without --sparsity 0.5 --out thin").code == 0
    said = run("finetune thin --epochs 1 --lr 30 --regime gmp --sparsity 0.9 --out ruined").err
    assert "accuracy fell from" in said and "was made to forget" not in said
