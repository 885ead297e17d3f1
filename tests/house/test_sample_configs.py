"""Every sample recipe is one a person could use."""

from __future__ import annotations

import pytest
import yaml

from tests.house.tree import ROOT, VERBS

SAMPLES = sorted((ROOT / "sample_configs").glob("*.yaml"))


def test_there_are_samples():
    """At least one sample recipe is there, and nothing else lies in the folder."""
    assert len(SAMPLES) >= 1
    assert [path.name for path in (ROOT / "sample_configs").iterdir() if path not in SAMPLES] == []


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_sample_is_a_recipe(path):
    """`sparsify VERB --recipe FILE --dry-run` exits 0, VERB being the file's own."""
    from sparsify_cli.cli.app import main

    verb = yaml.safe_load(path.read_text(encoding="utf-8"))["verb"]
    assert verb in VERBS
    assert main([verb, "--recipe", str(path), "--dry-run"]) == 0


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_sample_says_what_it_is_for(path):
    """A sample begins with a comment that explains it."""
    assert path.read_text(encoding="utf-8").startswith("# ")
