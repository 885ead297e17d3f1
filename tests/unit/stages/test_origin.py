"""Code and versions of a result, and what a resumed run is told when they have changed."""

import hashlib
from pathlib import Path

import pytest

from sparsify_cli.stages.origin import code_of, origin_notes, versions
from sparsify_cli.stages.subject import Subject
from sparsify_cli.values.checkpoint import Checkpoint, Source, Spec
from sparsify_cli.values.mask_set import MaskSet


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Somebody's code."""
    path = tmp_path / "net.py"
    path.write_text("def net(): ...\n")
    return path


def known(file: Path) -> dict:
    """The manifest of a network of that code."""
    subject = Subject(Checkpoint({}, Source("", "")), MaskSet(), Spec(f"{file}:net"), Spec("digits"))
    return {"code": code_of(subject, "package.module:loss"), "versions": versions()}


def test_files_are_hashed_whole(file: Path) -> None:
    """Shelf names and packages are no files."""
    assert known(file)["code"] == {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}


def test_nothing_has_changed(file: Path) -> None:
    """Nothing is said, also of manifests that know nothing."""
    assert origin_notes(known(file)) == () == origin_notes({})


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_code_has_changed(file: Path, how: str) -> None:
    """It is named."""
    manifest = known(file)
    file.write_text("def net(): pass\n") if how == "changed" else file.unlink()
    [told] = origin_notes(manifest)
    assert "net.py has changed" in told


def test_torch_is_another(file: Path) -> None:
    """Both versions are named; of libraries that compute nothing a change is not told."""
    manifest = known(file)
    manifest["versions"] = {**versions(), "torch": "2.8.0", "onnx": "1.0"}
    [told] = origin_notes(manifest)
    assert f"torch is {versions()['torch']} and was 2.8.0" in told and "onnx" not in told
