"""Writing a pruned copy: the disk is asked to begin early, and nothing else changes."""

import numpy as np

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.maths import weight_view
from sparsify_cli.maths.radix_select import Cut
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.stages import rewriting
from sparsify_cli.stages.cutting import Cuts
from sparsify_cli.stages.slices import Meter, Target
from sparsify_cli.values.layout import Layout, Place
from sparsify_cli.values.mask_writer import MaskWriter


def test_the_disk_begins_before_the_end(tmp_path, monkeypatch):
    """While weights 1 to 64 are cut at 32, the disk is told of runs that follow each other; zeros and other bytes are as expected."""
    told = []
    monkeypatch.setattr(weight_view, "SLICE", 8)
    monkeypatch.setattr(rewriting, "TOGETHER", 1)
    monkeypatch.setattr(rewriting, "BEHIND", 64)
    monkeypatch.setattr(rewriting, "begin_write_back", lambda descriptor, start, end: told.append((start, end)))
    weights = np.arange(1, 65, dtype=np.float32)
    (tmp_path / "in").write_bytes(b"head" + weights.tobytes() + b"tail")
    (tmp_path / "out").touch()
    (tmp_path / "bits").touch()
    place = Place("in", 4, "float32", (8, 8))
    layout = Layout("plain", tmp_path / "in", tmp_path, ("in",), {(): {"w": place}})
    masks = MaskWriter(tmp_path / "bits", {"w": (8, 8)})
    masks.begin()
    key = int(np.float32(32).view(np.uint32))
    target = Target("w", place, weight_view.WeightView((8, 8), "float32", Pattern()))
    cuts = Cuts({"w": Cut(32, key, 0, 1)}, "float32")
    zeros = rewriting.write_copy(layout, "in", tmp_path / "out", [target], cuts, masks, Meter(Listener(), "writing", 264))
    assert zeros == {"w": 32}
    assert (tmp_path / "out").read_bytes() == b"head" + np.where(weights > 32, weights, 0).astype(np.float32).tobytes() + b"tail"
    assert (tmp_path / "bits").read_bytes()[-8:] == bytes([0] * 4 + [255] * 4)
    assert sorted(told) == [(0, 68), (68, 132), (132, 196), (196, 260)]
