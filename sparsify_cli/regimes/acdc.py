"""Alternate compressed and decompressed training: dense and sparse phases by turns, ending sparse.

    a sparse phase begins: masks are chosen anew on the current dense weights; the others become 0
    a dense phase begins:  every weight takes part, those that were pruned from 0; momentum starts from 0
    a step:                an ordinary one; in sparse phases masked weights stay 0
    learning rate:         one schedule over the whole run

The network at the end of the last dense phase is kept as the dense co-model; with `finetune_dense` it goes on training without
masks through the last sparse phase, on the same batches and learning rates, at twice the time of a step.

Source: Peste et al. 2021 (AC/DC, arXiv 2106.12379), official `policies/manager.py` and `configs/neurips`; the shares of the
defaults are those of its ImageNet runs (warm-up 10, phases of 5, last dense 10, last sparse 15 of 100 epochs). Differs:
counts are exact (theirs keep one weight less and drop ties); with AdamW the moments of weights that were pruned are zeroed, the
others stay (the paper uses SGD only). What a checkpoint had pruned comes back too: regrowth is the method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.alternation import Phase, alternation
from sparsify_cli.recipes.duration import Duration
from sparsify_cli.training import companion, guard, masking
from sparsify_cli.training.aim import refuse_movement
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run

SHORT = 50
"""Steps of a sparse or dense phase under which it is called too short: weights that come back need some hundred to move."""

DENSE = "acdc.dense"


@dataclass(frozen=True, kw_only=True)
class Acdc(Regime):
    """Alternating compressed / decompressed training.

    Args:
        warmup: dense training before the first sparse phase.
        sparse: length of each sparse phase but the last.
        dense: length of each dense phase but the last.
        last_dense: length of the last dense phase.
        last_sparse: length of the last sparse phase.
        reset_momentum: zero the momentum of every parameter when a dense phase begins.
        finetune_dense: train the dense co-model on through the last sparse phase.
    """

    warmup: str = "0.1run"
    sparse: str = "0.05run"
    dense: str = "0.05run"
    last_dense: str = "0.1run"
    last_sparse: str = "0.15run"
    reset_momentum: bool = True
    finetune_dense: bool = False

    def __post_init__(self) -> None:
        """Read every duration once, so that a mistyped one is refused before anything is loaded."""
        for text in (self.warmup, self.sparse, self.dense, self.last_dense, self.last_sparse):
            Duration.parse(text)

    def start(self, run: Run) -> None:
        """Check the schedule, and say where phases are short.

        Raises:
            BadRequest: the run is too short for it.
        """
        refuse_movement(run, "acdc")
        phases = self.phases(run)
        if run.sparsify is not None:
            moving = set(run.sparsify(run.weights(), run.target))
            run.memory |= {STILL + name: mask.clone() for name, mask in run.masks.items() if name not in moving}
        guard.enforce(run)
        shortest = min(phase.length for phase in phases[1:])
        if shortest < SHORT:
            run.tell(
                "warning",
                text=f"the shortest phase of acdc has {shortest} steps: weights that come back need some hundred to move; train longer, "
                "or make batches smaller or phases longer (regime.sparse, regime.dense).",
            )

    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """Change phase if it is time, then one guarded optimizer step."""
        phases = self.phases(run)
        now = next((i for i, phase in enumerate(phases) if phase.begin == run.step), None)
        if now is not None:
            self._begin(run, phases[now], is_last=now == len(phases) - 1)
        value = guard.descend(run, loss)
        if self.finetune_dense and run.step >= phases[-1].begin:
            with companion.in_place_of(run, DENSE, _still(run)):
                guard.descend(run, loss)
        return value

    def is_settled(self, run: Run) -> bool:
        """In the last sparse phase."""
        return run.step > self.phases(run)[-1].begin

    def passes(self, run: Run) -> tuple[float, float]:
        """An ordinary step; and a dense one beside it while the co-model trains on."""
        return 3.0, 3.0 * (self.finetune_dense and run.step >= self.phases(run)[-1].begin)

    def others(self, run: Run) -> Mapping[str, Mapping[str, Tensor]]:
        """The dense co-model."""
        return {"dense": companion.kept(run, DENSE)}

    def phases(self, run: Run) -> tuple[Phase, ...]:
        """The phases of a run.

        Raises:
            BadRequest: the run is too short for them.
        """
        lengths = {name: self._steps(run, name) for name in ("warmup", "sparse", "dense", "last_dense", "last_sparse")}
        try:
            return alternation(run.total, **lengths)
        except ValueError as error:
            listed = ", ".join(f"{name} {count}" for name, count in lengths.items())
            what = f"A run of {run.total} steps is too short for the phases of acdc ({listed})."
            raise BadRequest(what, "It needs a warm-up, a last dense and a last sparse phase.", "Train more --epochs.") from error

    def _steps(self, run: Run, name: str) -> int:
        steps = Duration.parse(getattr(self, name)).steps(per_epoch=run.per_epoch, total=run.total)
        return steps if name == "warmup" else max(1, steps)

    def _begin(self, run: Run, phase: Phase, *, is_last: bool) -> None:
        if phase.is_sparse and is_last:
            companion.keep(run, DENSE)
        if phase.is_sparse:
            self._compress(run)
        else:
            masking.switch(run, _still(run), event="decompressed")
            if run.step and self.reset_momentum:
                _forget_momentum(run)

    @staticmethod
    def _compress(run: Run) -> None:
        if run.sparsify is None:
            return
        before = run.remembered(LAST)
        chosen = run.sparsify(run.weights(), run.target)
        masking.switch(run, MaskSet({**_still(run), **chosen}), event="compressed")
        run.events[-1] |= masking.changes(MaskSet(before), run.masks)  # against the sparse phase before: between them all were dense
        run.memory |= {LAST + name: mask.clone() for name, mask in run.masks.items()}


LAST, STILL = "acdc.last.", "acdc.still."


def _still(run: Run) -> MaskSet:
    """Masks of tensors that are none of the recipe's: what was pruned there stays pruned in every phase."""
    return MaskSet(run.remembered(STILL))


@torch.no_grad()
def _forget_momentum(run: Run) -> None:
    for state in run.optimizer.state.values():
        momentum = state.get("momentum_buffer")
        if isinstance(momentum, Tensor):
            momentum.zero_()
