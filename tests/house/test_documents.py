"""README, CHANGELOG and LICENSE say what is true now."""

from __future__ import annotations

import re

import pytest

from sparsify_cli import __version__
from sparsify_cli.shelf import SHELVES
from tests.house.tree import ROOT, VERBS


def document(name: str) -> str:
    """A document of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def test_changelog_mentions_the_version():
    """CHANGELOG.md has a heading for the current version."""
    assert re.search(rf"^## {re.escape(__version__)}\b", document("CHANGELOG.md"), re.MULTILINE)


@pytest.mark.parametrize("verb", VERBS)
def test_readme_names_every_verb(verb):
    """README.md shows every verb as it is typed."""
    assert re.search(rf"\bsparsify {verb}\b", document("README.md"))


@pytest.mark.parametrize("shelf", SHELVES)
def test_readme_names_every_shelf(shelf):
    """README.md names every shelf."""
    assert re.search(rf"`{shelf}/?`", document("README.md"))


def test_licence_is_apache_2():
    """LICENSE is the full text of the Apache License 2.0, conditions and appendix included."""
    text = document("LICENSE")
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert len(text.splitlines()) > 200


def test_readme_links_lead_somewhere():
    """The README links to nothing inside the repository that is not there."""
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document("README.md"))
    assert [link for link in links if not (ROOT / link).exists()] == []
