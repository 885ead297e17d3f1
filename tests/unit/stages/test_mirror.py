"""The log's numbers, sent elsewhere: which ones, under which names, and refusals where a package is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from sparsify_cli.errors import BadRequest, UnknownName
from sparsify_cli.stages import mirror as shelf
from sparsify_cli.stages.mirror import Mirror, mirror, require_mirror
from sparsify_cli.stages.training_log import TrainingLog, read_log

ENTRIES = (
    {"event": "epoch", "step": 10, "accuracy": 0.5, "sparsity": 0.9},
    {"event": "masks hold", "step": 12, "sad": 3.0, "thinnest": "conv1", "is_last": True},
    {"event": "warning", "step": 12, "text": "short"},
)


def test_numbers_go_under_the_name_of_their_event(tmp_path: Path) -> None:
    """Numbers only; what is text or truth stays in the log, which is what it was without a mirror."""
    sent: list[tuple[dict[str, float], int]] = []
    closed: list[bool] = []
    log = TrainingLog(
        tmp_path / "training.jsonl", (), Mirror(lambda numbers, step: sent.append((dict(numbers), step)), lambda: closed.append(True))
    )
    for entry in ENTRIES:
        log.add(entry)
    log.close()
    assert sent == [({"epoch/accuracy": 0.5, "epoch/sparsity": 0.9}, 10), ({"masks_hold/sad": 3.0}, 12)]
    assert closed == [True] and [e["event"] for e in read_log(tmp_path)] == ["epoch", "masks hold", "warning"]


def test_what_was_sent_before_is_not_sent_again(tmp_path: Path) -> None:
    """Lines of the run that is resumed are in the file and not in the mirror."""
    sent: list[int] = []
    log = TrainingLog(tmp_path / "training.jsonl", ENTRIES[:1], Mirror(lambda _, step: sent.append(step), lambda: None))
    log.add(ENTRIES[1])
    assert sent == [12] and len(read_log(tmp_path)) == 2


def test_a_mirror_that_fails_is_left_out(tmp_path: Path) -> None:
    """One warning; the file has every line, and nothing is sent or closed after that."""

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    log = TrainingLog(tmp_path / "training.jsonl", (), Mirror(fail, fail))
    for entry in ENTRIES:
        log.add(entry)
    log.close()
    found = read_log(tmp_path)
    assert [entry["event"] for entry in found] == ["epoch", "warning", "masks hold", "warning"]
    assert "No space left" in found[1]["text"]


def test_unknown_and_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place nobody knows, and one whose package is not installed."""
    require_mirror("")
    with pytest.raises(UnknownName, match="wandb"):
        require_mirror("wandb")
    monkeypatch.setitem(shelf.PACKAGES, "mlflow", "no_such_package_at_all")
    with pytest.raises(BadRequest, match="needs the package mlflow"):
        require_mirror("mlflow:http://there")


class FakeMlflow(ModuleType):
    """Writes down how it is called."""

    def __init__(self) -> None:
        super().__init__("fake_mlflow")
        self.calls: list[tuple[object, ...]] = []
        for name in ("set_tracking_uri", "start_run", "log_params", "log_metrics", "end_run"):
            setattr(self, name, lambda *args, name=name, **kwargs: self.calls.append((name, args, kwargs)))


def test_mlflow_hears_settings_and_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One run with the artifact's name, parameters as text, metrics with their step, an end."""
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "fake_mlflow", fake)
    monkeypatch.setitem(shelf.PACKAGES, "mlflow", "fake_mlflow")
    opened = mirror("mlflow:file:there", tmp_path / "007-train", {"lr": 0.1})
    assert opened is not None
    opened.hear(ENTRIES[0])
    opened.close()
    assert fake.calls == [
        ("set_tracking_uri", ("file:there",), {}),
        ("start_run", (), {"run_name": "007-train"}),
        ("log_params", ({"lr": "0.1"},), {}),
        ("log_metrics", ({"epoch/accuracy": 0.5, "epoch/sparsity": 0.9},), {"step": 10}),
        ("end_run", (), {}),
    ]


def test_a_place_that_refuses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the package says is told with what to do."""

    def refuse(address: str) -> None:
        raise RuntimeError(f"unsupported URI {address}.\nSee the manual.")

    fake = FakeMlflow()
    fake.set_tracking_uri = refuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_mlflow", fake)
    monkeypatch.setitem(shelf.PACKAGES, "mlflow", "fake_mlflow")
    with pytest.raises(BadRequest, match=r"mlflow says: unsupported URI odd://place\. See the manual\. Mend that"):
        mirror("mlflow:odd://place", tmp_path / "007-train", {})


def test_tensorboard_writes_points_that_can_be_read_back(tmp_path: Path) -> None:
    """The scalars of its event file are the numbers."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed")
    opened = mirror("tensorboard", tmp_path, {})
    assert opened is not None
    opened.hear(ENTRIES[0])
    opened.close()
    read = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    (point,) = read.Scalars("epoch/accuracy")
    assert (point.step, point.value) == (10, 0.5)


def test_runs_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    """Each under its own name."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    for name in ("001-train", "002-train"):
        opened = mirror(f"tensorboard:{tmp_path / 'all'}", tmp_path / name, {})
        assert opened is not None
        opened.close()
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["001-train", "002-train"]


def test_other_processes_and_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is opened."""
    assert mirror("", tmp_path, {}) is None
    monkeypatch.setattr(shelf, "rank", lambda: 1)
    assert mirror("tensorboard", tmp_path, {}) is None
