"""The promise of a listener: it is told what happens while a stage works. The default hears nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a training run, or a pass over files, is.

    Args:
        label: what is being done.
        step, total: optimizer steps (or bytes) done and in all.
        loss: running mean of the training loss, nats; None before the first step.
        accuracy: running training accuracy in [0, 1]; None where it is not known.
        sparsity: fraction of zeros among prunable weights.
        unit: what is counted: `steps` of training, or `B` for bytes that are read and written.
    """

    label: str
    step: int
    total: int
    loss: float | None = None
    accuracy: float | None = None
    sparsity: float = 0.0
    unit: str = "steps"


class Listener:
    """Hears notes and progress; prints nothing."""

    def note(self, text: str) -> None:
        """A sentence for the person watching."""
        del text

    def progress(self, now: Progress) -> None:
        """A training run moved on."""
        del now

    def done(self) -> None:
        """The training run that reported progress ended."""
