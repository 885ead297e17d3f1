"""Artifacts: numbered folders, one writer at a time, nothing half-written, a manifest that is believed only when sound."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sparsify_cli.errors import BadRequest, Busy, DiskFailure, MissingContext, MissingFile, UnreadableFile
from sparsify_cli.values import artifact as artifact_module
from sparsify_cli.values.artifact import Artifact, claimed, is_artifact, newest, relative_to, reserve, write_manifest

SOUND = {"status": "complete", "verb": "prune", "weights": {"file": "model.safetensors", "sha256": "0"}}


def made(name, **changes):
    """A folder under runs/ with a manifest."""
    folder = Path("runs", name)
    folder.mkdir(parents=True)
    write_manifest(folder, {**SOUND, **changes})
    return folder


def test_folders_are_numbered_in_order():
    """Numbers go on from the largest there is, gaps and other folders do not matter; the name loses an earlier number and verb."""
    assert reserve("prune", "model") == Path("runs/001-prune-model")
    Path("runs/041-x").mkdir()
    Path("runs/notes").mkdir()
    assert reserve("finetune", "001-prune-model") == Path("runs/042-finetune-model")
    assert reserve("extract", "") == Path("runs/043-extract-model")
    assert sorted(path.name for path in Path("runs").iterdir()) == [
        "001-prune-model",
        "041-x",
        "042-finetune-model",
        "043-extract-model",
        "notes",
    ]


def test_numbers_go_past_999():
    """The thousandth run has a number too, and is the newest."""
    made("999-prune-a")
    folder = reserve("prune", "b")
    write_manifest(folder, SOUND)
    assert folder.name == "1000-prune-b"
    assert newest(("prune",)).folder == folder


def test_threads_never_share_a_folder():
    """Forty reservations by eight threads at once are forty different folders."""
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda i: reserve("prune", f"m{i % 3}"), range(40)))
    assert len(set(folders)) == 40
    assert all(folder.is_dir() for folder in folders)


def test_processes_never_share_a_folder(python):
    """Four processes that reserve five folders each get twenty different ones."""
    code = "from sparsify_cli.values.artifact import reserve\nfor _ in range(5): print(reserve('prune', 'm'))"
    running = [subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [line for process in running for line in process.communicate(timeout=60)[0].split()]
    assert [process.returncode for process in running] == [0] * 4
    assert len(said) == len(set(said)) == 20


def test_a_failure_leaves_nothing():
    """Whatever was written before the failure goes with the folder; the failure itself is not hidden."""
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), claimed(Path("out")) as folder:
            (folder / "half").write_text("x")
            raise error
        assert not Path("out").exists()


def test_a_resumable_run_is_kept():
    """With a manifest the folder stays: a run that was interrupted can go on. The lock is gone."""
    with pytest.raises(KeyboardInterrupt), claimed(Path("out")) as folder:
        write_manifest(folder, {**SOUND, "status": "interrupted"})
        raise KeyboardInterrupt
    assert [path.name for path in Path("out").iterdir()] == ["manifest.json"]
    assert not Artifact.open(Path("out")).complete
    with claimed(Path("out"), held=True) as folder:
        write_manifest(folder, SOUND)
    assert Artifact.open(Path("out")).complete


def test_nothing_is_overwritten():
    """A folder with anything in it, or a file, is refused and left as it is; an empty folder may be used."""
    Path("full").mkdir()
    Path("full/mine").write_text("precious")
    Path("file").write_text("precious")
    for name in ("full", "file"):
        with pytest.raises(BadRequest, match=f"{name} already exists"), claimed(Path(name)):
            pytest.fail("the folder was claimed")
    assert Path("full/mine").read_text() == Path("file").read_text() == "precious"
    Path("empty").mkdir()
    with claimed(Path("empty")) as folder:
        assert folder.is_dir()


def test_two_writers_never_meet():
    """A second claim of the same folder is refused while the first holds it, and removes nothing."""
    with claimed(Path("out")) as folder:
        (folder / "model").write_text("x")
        for held in (False, True):
            with pytest.raises(Busy, match="Another process"), claimed(folder, held=held):
                pytest.fail("two writers")
        assert (folder / "model").read_text() == "x"
        write_manifest(folder, SOUND)
    assert is_artifact(Path("out"))


def test_another_process_is_kept_out(python):
    """The lock holds between processes too."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom sparsify_cli.values.artifact import claimed\nwith claimed(Path('out'), held=True): pass"
    )
    with claimed(Path("out")) as folder:
        answer = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60)
        assert "Busy" in answer.stderr and answer.returncode == 1
        assert folder.is_dir()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_place_is_a_sentence():
    """A folder that cannot be made is a disk failure with the path."""
    Path("locked").mkdir(mode=0o500)
    with pytest.raises(DiskFailure, match="locked"), claimed(Path("locked/out")):
        pytest.fail("claimed")


def test_a_file_in_the_way_is_a_sentence():
    """runs/ that is a file is a disk failure, not a traceback."""
    Path("runs").write_text("x")
    with pytest.raises(DiskFailure, match="runs"):
        reserve("prune", "m")


def test_the_newest_that_fits():
    """Interrupted runs, other verbs, folders without manifest or network are passed over; the largest number wins."""
    made("001-prune-a")
    right = made("010-prune-b")
    made("011-prune-c", status="interrupted")
    made("012-train-d", verb="train")
    made("013-export-e", verb="prune", weights=None)
    Path("runs/014-prune-f").mkdir()
    assert newest(("prune", "finetune")).folder == right
    with pytest.raises(MissingContext, match=r"No artifact of embed.*sparsify embed"):
        newest(("embed",))


def test_a_manifest_comes_back():
    """What is written is what is opened, schema included, and NaN is refused at writing."""
    folder = made("001-prune-a", facts={"x": [1, 2.5, None, "é"]})
    artifact = Artifact.open(folder)
    assert (artifact.verb, artifact.complete, artifact.manifest["facts"]) == ("prune", True, {"x": [1, 2.5, None, "é"]})
    assert json.loads((folder / "manifest.json").read_text())["schema"] == "sparsify/artifact/1"
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_manifest(folder, {**SOUND, "facts": {"x": float("nan")}})
    assert Artifact.open(folder).manifest == artifact.manifest
    assert artifact.file("manifest.json") == folder / "manifest.json"
    assert artifact.file("nest.safetensors") is None


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"schema": "other/1"}', "\x00\x01", '{"schema": "sparsify/artifact/1"}', "[" * 9999]
    + [json.dumps({"schema": "sparsify/artifact/1", **SOUND, **wrong}) for wrong in ({"weights": 3}, {"status": None}, {"numbers": [1]})],
    ids=range(11),
)
def test_a_damaged_manifest_is_a_sentence(content):
    """Truncated, empty, of another schema or with entries of another kind: refused with the path."""
    Path("a").mkdir()
    Path("a/manifest.json").write_text(content)
    with pytest.raises(UnreadableFile, match=r"manifest\.json"):
        Artifact.open(Path("a"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architecture", {"name": 5, "options": {}}),
        ("architecture", {"name": None, "options": {}}),
        ("data", {"name": "digits", "options": []}),
        ("parent", {"path": 7, "sha256": "0"}),
        ("parent", {"path": "model.pt", "sha256": None}),
        ("weights", {"file": None, "sha256": "0"}),
        ("files", {"model.safetensors": 3}),
        ("verb", 1),
        ("status", True),
        ("numbers", [{"name": "accuracy", "scope": 1, "value": 0.5}]),
        ("numbers", [{"name": None, "scope": "all", "value": 0.5}]),
        ("numbers", [{"name": "accuracy", "scope": "all", "value": [0.5]}]),
    ],
)
def test_an_entry_of_another_type_is_a_sentence(key, value):
    """Names, paths and hashes are texts; a manifest with another type under them is refused, and the entry is named."""
    folder = made("001-prune-a", **{key: value})
    with pytest.raises(UnreadableFile, match=rf"manifest\.json is damaged.*: {key}\."):
        Artifact.open(folder)


def test_entries_of_the_right_type_are_opened():
    """An undefined number (null) is one."""
    numbers = [{"name": "accuracy", "scope": "all", "value": value} for value in (None, 1, 0.5)]
    folder = made("001-prune-a", numbers=numbers, parent={"path": "m.pt", "sha256": ""}, architecture={"name": "cnn", "options": {}})
    assert Artifact.open(folder).manifest["numbers"] == numbers


def test_a_folder_without_manifest_is_no_artifact():
    """It says so by name."""
    Path("a").mkdir()
    with pytest.raises(MissingFile, match="a is not an artifact"):
        Artifact.open(Path("a"))


def test_a_changed_file_is_noticed():
    """A file the manifest vouches for is checked: changed, gone, and never written are three answers."""
    folder = made(
        "001-prune-a", files={"masks.safetensors": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", "nest": "0"}
    )
    artifact = Artifact.open(folder)
    (folder / "masks.safetensors").write_text("x")
    assert artifact.verified("masks.safetensors") == folder / "masks.safetensors"
    (folder / "masks.safetensors").write_text("y")
    with pytest.raises(UnreadableFile, match="not the file its manifest describes"):
        artifact.verified("masks.safetensors")
    with pytest.raises(MissingFile, match="is gone"):
        artifact.verified("nest")
    assert artifact.verified("memo.safetensors") is None


def test_paths_move_with_the_project():
    """A parent is remembered as seen from the artifact."""
    assert relative_to(Path("runs/001-train-m"), Path("runs/002-prune-m")) == "../001-train-m"
    assert relative_to(Path("model.pt"), Path("runs/002-prune-m")) == "../../model.pt"


def fail_in(folder):
    """A write that fails after its first file."""
    with pytest.raises(ValueError, match="no"), claimed(folder):
        (folder / "half").write_text("x")
        raise ValueError("no")


def test_a_failure_removes_only_what_was_made():
    """An empty folder that was there stays, empty; a new one goes with the parents made for it, not with those that were there."""
    Path("mine").mkdir()
    fail_in(Path("mine"))
    fail_in(Path("mine/a/b"))
    assert [path.name for path in Path().iterdir()] == ["mine"]
    assert list(Path("mine").iterdir()) == []


def test_a_damaged_manifest_does_not_hide_the_others():
    """The newest sound artifact is found past a damaged one; when nothing else is there, the damaged one is named."""
    good = made("001-prune-a")
    made("002-prune-b").joinpath("manifest.json").write_text("{")
    assert newest(("prune",)).folder == good
    with pytest.raises(MissingContext, match=r"002-prune-b is damaged"):
        newest(("train",))


def test_a_lock_removed_by_its_last_holder_is_not_held(monkeypatch):
    """Who opened the lock file just before it was removed takes a new one, so that a third process finds it busy."""
    folder = Path("run")
    real, stale = artifact_module.fcntl.flock, []

    def flock(file, how):
        if not stale:
            stale.append((folder / ".lock").unlink())  # the last holder leaves between open and lock
        real(file, how)

    monkeypatch.setattr(artifact_module.fcntl, "flock", flock)
    with claimed(folder):
        assert (folder / ".lock").exists()
        with pytest.raises(Busy), claimed(folder):
            raise AssertionError


def test_the_folder_of_a_killed_writer_is_taken_again():
    """A lock and unfinished files of a writer that is gone do not count as contents."""
    Path("run").mkdir()
    for name in (".lock", ".0123abcd-model.safetensors"):
        Path("run", name).touch()
    with claimed(Path("run")) as folder:
        assert [path.name for path in folder.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("text", "alone", "beside"),
    [
        ("", True, False),
        ("{}", True, False),
        ("{nonsense", True, False),
        ("[" * 9999, True, False),
        ('{"schema": 1}', False, False),
        ('{"name": "app", "icons": []}', False, False),
        ("[1]", False, False),
        ('{"schema": "sparsify/artifact/9"}', True, True),
        ('{"verb": "prune", "recipe": {}}', True, True),
    ],
)
@pytest.mark.parametrize("other", ["config.json", "model-00001-of-00002.safetensors", "adapter.safetensors"])
def test_whose_manifest_it_is(text, alone, beside, other):
    """Ours by what it says; a damaged one beside somebody else's checkpoint is not ours, beside our masks it is."""
    Path("a").mkdir()
    Path("a/manifest.json").write_text(text)
    Path("a/model.safetensors").write_bytes(b"")
    assert is_artifact(Path("a")) is alone
    Path("a", other).write_bytes(b"")
    assert is_artifact(Path("a")) is beside
    Path("a/masks.safetensors").write_bytes(b"")
    assert is_artifact(Path("a")) is alone
