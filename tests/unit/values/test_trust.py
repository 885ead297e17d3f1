"""Seals over what names code."""

from __future__ import annotations

from sparsify_cli.values.trust import is_sealed, seal

SPECS = {"architecture": {"name": "net.py:Net", "options": {"depth": 20}}, "data": None}


def test_own_seal_holds(tmp_path, monkeypatch):
    """What this user sealed is recognised, in any order of keys, and the key is readable by its owner only."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    given = seal(SPECS)
    assert len(given) == 64
    assert is_sealed(dict(reversed(SPECS.items())), given)
    assert (tmp_path / "sparsify" / "key").stat().st_mode & 0o077 == 0


def test_changed_or_foreign_specs_are_not_sealed(tmp_path, monkeypatch):
    """Another name, an empty seal and another user's seal are all refused."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "mine"))
    given = seal(SPECS)
    assert not is_sealed({**SPECS, "data": {"name": "os:system", "options": {}}}, given)
    assert not is_sealed(SPECS, "")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "theirs"))
    seal(SPECS)
    assert not is_sealed(SPECS, given)


def test_without_a_place_for_a_key_nothing_is_trusted(tmp_path, monkeypatch):
    """A state folder that cannot be made gives an empty seal, and no seal holds."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert seal(SPECS) == ""
    assert not is_sealed(SPECS, "a" * 64)
