"""When a nest takes much more than its densest network alone, and what of it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch

from sparsify_cli.stages.nest_size import size_notes
from sparsify_cli.values.nest import Nest
from sparsify_cli.values.nest_file import write_nest

PATH = Path("nest.safetensors")


def told(levels: int, state: str = "private", own: int = 100) -> tuple[str, ...]:
    """What is said of so many levels of 8,000 weights with `own` numbers of side state each."""
    index = (torch.arange(8000) * levels // 8000 + 1).to(torch.uint8)
    sides = tuple({"norm": torch.full((own,), float(0 if state == "shared" else level))} for level in range(levels))
    sparsities = tuple(1 - Fraction(level, levels) for level in range(1, levels + 1))
    nest, weights = Nest(sparsities, {"w": index}, sides, state), {"w": torch.arange(1.0, 8001.0)}
    write_nest(PATH, nest, weights)
    return tuple(size_notes(PATH, nest, {**weights, **sides[-1]}))


def test_the_state_of_many_levels_is_told() -> None:
    """Seven further levels store 400 bytes each; the sizes are those of the files."""
    (note,) = told(8)
    assert f"the 8 levels take {PATH.stat().st_size:,} bytes" in note
    assert "2,800 are state that levels have of their own" in note
    assert "--state shared " in note


@pytest.mark.parametrize(("levels", "state", "own"), [(2, "private", 100), (4, "shared", 100), (2, "private", 0)])
def test_what_is_small_enough_is_not_told(levels: int, state: str, own: int) -> None:
    """Two levels, or state that is stored once."""
    assert told(levels, state, own) == ()


def test_shared_state_is_not_advised_to_be_shared() -> None:
    """Where headers alone take the room, fewer levels are all that helps."""
    notes = told(40, "shared")
    assert len(notes) == 1 and "--state" not in notes[0]
