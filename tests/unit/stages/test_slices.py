"""Going through slices: what a listener hears, and what a desk holds."""

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.maths import weight_view
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.stages.slices import NEWS, Desk, Meter, Target, slices_of
from sparsify_cli.values.layout import Place


class Ear(Listener):
    """Remembers how far things were."""

    def __init__(self):
        self.heard = []

    def progress(self, now):
        self.heard.append(now.step)


def test_a_listener_hears_a_few_hundred_times():
    """Of 100,000 small moves a few hundred are told, in order, and the last one is."""
    ear = Ear()
    meter = Meter(ear, "counting", 100_000)
    for _ in range(100_000):
        meter.moved(1)
    assert len(ear.heard) == NEWS == 500
    assert ear.heard == sorted(ear.heard)
    assert ear.heard[-1] == 100_000


def test_a_listener_hears_of_every_move_of_a_small_file():
    """Where there are fewer moves than news, each is told."""
    ear = Ear()
    meter = Meter(ear, "writing", 7)
    for count in (3, 0, 4):
        meter.moved(count)
    assert ear.heard == [3, 3, 7]


def test_slices_are_joined(monkeypatch):
    """Runs of slices cover what the slices cover, once, in order."""
    monkeypatch.setattr(weight_view, "SLICE", 16)
    target = Target("w", Place("f", 0, "float32", (5, 20)), weight_view.WeightView((5, 20), "float32", Pattern()))
    assert slices_of(target) == [(0, 16), (16, 16), (32, 16), (48, 16), (64, 16), (80, 16), (96, 4)]
    assert slices_of(target, 3) == [(0, 48), (48, 48), (96, 4)]


def test_a_desk_is_used_again():
    """The same memory serves until more is needed."""
    desk = Desk()
    first = desk.room(10)
    assert desk.room(4) is first
    assert desk.room(11).size >= 11
