"""`unlearn --reference`: what counts as trained anew, where the network has forgotten before."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from sparsify_cli.stages.subject import open_path
from tests.cli.conftest import NAMES, Run

DENSE = f"runs/{NAMES['dense']}"
ANEW = "--unlearner retrain --set unlearner.epochs=1 --most-harm 1"


def listed(name: str, ids: list[str]) -> str:
    """A file of ids."""
    with Path(name).open("w", newline="") as out:
        csv.writer(out).writerows([["id"], *([one] for one in ids)])
    return name


@pytest.fixture
def second(here: Path, run: Run) -> str:
    """`erased` is without class 3; a file names eight samples that it still knows."""
    assert run(f"unlearn {DENSE} --forget class:3 --out erased").code == 0
    return listed("second.csv", list(open_path(Path("erased")).samples("train").ids[:8]))


def test_a_reference_that_saw_what_was_forgotten_before_is_refused(run: Run, second: str):
    """It left out what is forgotten now, and was trained with the class that went before; also by `train --without`."""
    assert run(f"unlearn {DENSE} --forget {second} {ANEW} --out knows").code == 0
    assert run(f"train --arch mlp --data digits --epochs 1 --seed 7 --without {second} --out trained").code == 0
    gone = len(json.loads(Path("erased/manifest.json").read_text())["facts"]["forgotten_ids"])
    for reference in ("knows", "trained"):
        said = run(f"unlearn erased --forget {second} --audit --reference {reference} --out no")
        assert said.code == 2
        assert f"trained with {gone} of {8 + gone} samples: the 8 samples to forget and those forgotten before" in said.sentence


def test_a_reference_without_both_is_taken(run: Run, second: str):
    """Trained anew from the network that forgot, or from its parent without all of them."""
    ids = json.loads(Path("erased/manifest.json").read_text())["facts"]["forgotten_ids"]
    both = listed("both.csv", [*ids, *Path(second).read_text().split()[1:]])
    assert run(f"unlearn erased --forget {second} {ANEW} --out anew").code == 0
    assert run(f"train --arch mlp --data digits --epochs 1 --without {both} --out left-out").code == 0
    said = run(f"unlearn erased --forget {second} --audit --reference anew --reference left-out --out out")
    assert said.code == 0 and "nothing says" not in said.err
