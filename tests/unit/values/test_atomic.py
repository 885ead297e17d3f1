"""Atomic writing: the old file or the whole new one, and one sentence when the disk refuses."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sparsify_cli.errors import DiskFailure
from sparsify_cli.values.atomic import replace_file


def full_disk(path: Path) -> None:
    """Write half of the content, then find the disk full."""
    path.write_text("half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_new_content_replaces_the_old(tmp_path: Path) -> None:
    """The file holds the new content, no temporary stays, and the suffix was known while writing."""
    path, seen = tmp_path / "model.safetensors", []
    path.write_text("old")
    replace_file(path, lambda temporary: (seen.append(temporary), temporary.write_text("new")))
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
    assert seen[0].parent == tmp_path
    assert seen[0].suffix == ".safetensors"


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """The old content is there, nothing half-written is, and the sentence says that the disk is full."""
    path = tmp_path / "model.pt"
    path.write_text("old")
    with pytest.raises(DiskFailure, match=r"Cannot write .*model\.pt\. The disk is full\. Nothing was changed\. Free some space"):
        replace_file(path, full_disk)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("mine")])
def test_other_failures_pass_through_and_clean_up(tmp_path: Path, error: BaseException) -> None:
    """Ctrl-C and the writer's own errors are not called a disk failure; no temporary stays."""

    def write(path: Path) -> None:
        path.write_text("half")
        raise error

    with pytest.raises(type(error)):
        replace_file(tmp_path / "a", write)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError("no number"), "The system says: no number"),
        (OSError(errno.EROFS, "ro"), "read-only"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"), "most often because the disk is full"),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), "The disk is full"),
    ],
)
def test_every_way_of_saying_no(tmp_path: Path, error: Exception, sentence: str) -> None:
    """What Python, torch and safetensors raise for a refusing disk becomes the same kind of error."""

    def write(path: Path) -> None:
        raise error

    with pytest.raises(DiskFailure, match=sentence):
        replace_file(tmp_path / "a", write)


def test_a_missing_folder_and_a_folder_in_the_way(tmp_path: Path) -> None:
    """Both are said in words, with what to do."""
    with pytest.raises(DiskFailure, match=r"folder is not there.*Create the folder"):
        replace_file(tmp_path / "no" / "a", lambda path: path.write_text("x"))
    (tmp_path / "a").mkdir()
    with pytest.raises(DiskFailure, match="A folder of that name is in the way"):
        replace_file(tmp_path / "a", lambda path: path.write_text("x"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_umask_decides_who_reads_the_file(tmp_path: Path) -> None:
    """A writer that leaves its file private (safetensors does) does not make ours private."""
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "a.safetensors", lambda path: save_file({"w": torch.ones(2)}, path))
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640


def test_a_very_long_name_still_fits(tmp_path: Path) -> None:
    """The temporary of a name as long as the file system allows is not too long itself."""
    path = tmp_path / ("n" * 255)
    replace_file(path, lambda temporary: temporary.write_text("x"))
    assert path.read_text() == "x"
