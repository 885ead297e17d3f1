"""Claim: a winning ticket of an under-trained network wins nothing, and of a well trained one is no better than its masks.

Digits, a network of 64-300-100-10 weights, iterative pruning by 36 % to 10.7 % of the weights (five rounds), with the tool's own
commands. Weak recipe: rate 0.01, 12 epochs a round; sufficient: 0.05, 30 epochs. The dense network of the verdict is the best of both.

Source: Ma et al. 2021 (arXiv 2107.00166): tickets that win where the dense network is under-trained, and where the rate is low.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsify_cli.cli.app import main

SPARSITY, ROUNDS = 0.893, 5
RECIPES = {"weak": (0.01, 12), "sufficient": (0.05, 30)}


def trained(name: str, rate: float, epochs: int, flags: str = "") -> float:
    """Test accuracy of a network trained on digits."""
    base = f"train --arch mlp --arch-arg hidden=300,100 --data digits --lr {rate} --epochs {epochs} --weight-decay 1e-4 --batch-size 16"
    base += f" --out {name} --format quiet"
    assert main([*base.split(), *flags.split()]) == 0
    numbers = json.loads(Path(name, "manifest.json").read_text())["numbers"]
    return next(float(n["value"]) for n in numbers if (n["name"], n["of"], n["scope"]) == ("accuracy", "compressed", "all"))


def ladder(recipe: str) -> dict[str, float]:
    """Dense, ticket and branches of one recipe."""
    rate, epochs = RECIPES[recipe]
    imp = f"--regime imp --sparsity {SPARSITY} --set regime.drop=0.36 --set regime.branch="
    whole = epochs * (ROUNDS + 1)
    found = {"dense": trained(f"{recipe}-dense", rate, epochs)}
    return found | {branch: trained(f"{recipe}-{branch}", rate, whole, imp + branch) for branch in ("ticket", "reinit", "random")}


def ruled(recipe: str) -> int:
    """`ticket`, with the best dense network."""
    branches = [word for branch in ("ticket", "reinit", "random") for word in (f"--{branch}", f"{recipe}-{branch}")]
    return main(["ticket", "--dense", "sufficient-dense", *branches])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_tickets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Weak: the ticket beats its masks with other weights by over 10 points; sufficient: by less than 3; neither is a jackpot."""
    monkeypatch.chdir(tmp_path)
    weak, sufficient = ladder("weak"), ladder("sufficient")
    print(weak, sufficient)
    assert weak["ticket"] - weak["reinit"] > 0.10
    assert abs(sufficient["ticket"] - sufficient["reinit"]) < 0.03
    assert sufficient["dense"] > weak["dense"] + 0.01
    for recipe in RECIPES:
        capsys.readouterr()
        assert ruled(recipe) == 0
        said = capsys.readouterr().out
        assert "Jackpot" not in said and ("No prize" in said) == (recipe == "weak")
