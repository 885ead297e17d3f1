"""Run: the one mutable thing. A training run, saved whole so that a killed run resumes bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.shards import is_split, saved, split_like


@runtime_checkable
class Sparsify(Protocol):
    """Chooses masks for the current weights: the recipe's criterion, allocation and pattern, closed over."""

    def __call__(self, weights: Mapping[str, Tensor], sparsity: Fraction, *, within: MaskSet | None = None) -> MaskSet:
        """Masks with exactly `sparsity` zeros, inside `within` where given; frozen weights are always kept."""


@runtime_checkable
class Following(Sparsify, Protocol):
    """Chooses masks by what training gathers of the weights."""

    @property
    def follows(self) -> tuple[str, ...]:
        """The weights whose movement it wants gathered; none where its criterion looks at something else."""

    def knowing(self, movement: Mapping[str, Tensor]) -> Sparsify:
        """The same choice, when this was gathered so far."""


def _as_they_are(masks: MaskSet) -> MaskSet:
    return masks


@dataclass(eq=False)
class Run:
    """State of a training run.

    Args:
        model: the plain module (masks, state and names refer to it).
        forward: what the objective calls: the module, or the engine's wrapper around it.
        optimizer: any torch optimizer.
        backward: the engine's backward pass (precision, gradient averaging).
        masks: enforced after every step.
        frozen: name -> (positions, values) that no step may move.
        sparsify: how masks are chosen; regimes that change masks call it.
        target: sparsity to reach by the end.
        total: optimizer steps of the whole run.
        per_epoch: optimizer steps of one epoch.
        step: optimizer steps done.
        memory: what a regime must remember between steps; saved with the run.
        clip: largest norm of a step's gradient; 0 = no limit.
        is_over: True ends the run after this step, before its total.
        warmup: steps of the learning rate's climb at the start of the run.
        is_trained: it starts from weights that were trained, not from fresh ones.
        seed: of everything random in it.
        settle: makes masks those of the first process, on every process.
        events: what happened since they were last taken away: kind, step and numbers of each.
    """

    model: nn.Module
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    backward: Callable[[Tensor], None]
    total: int
    per_epoch: int
    masks: MaskSet = field(default_factory=MaskSet)
    frozen: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    sparsify: Sparsify | None = None
    target: Fraction = Fraction(0)
    step: int = 0
    memory: dict[str, Tensor] = field(default_factory=dict)
    clip: float = 0.0
    is_over: bool = False
    warmup: int = 0
    is_trained: bool = False
    seed: int = 0
    settle: Callable[[MaskSet], MaskSet] = _as_they_are
    events: list[dict[str, Any]] = field(default_factory=list)

    def weights(self) -> dict[str, Tensor]:
        """Detached views of the parameters, by name."""
        return {name: p.detach() for name, p in self.model.named_parameters()}

    def generator(self, stream: int = 0) -> torch.Generator:
        """Random numbers of this step, the same on every process and after a resume.

        Args:
            stream: which of several independent sequences.
        """
        words = hashlib.sha256(f"{self.seed}/{self.step}/{stream}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(words[:8], "big") >> 1)

    def remembered(self, prefix: str) -> dict[str, Tensor]:
        """What is in memory under names that begin with `prefix`, by the rest of the name."""
        return {name.removeprefix(prefix): value for name, value in self.memory.items() if name.startswith(prefix)}

    def forget(self, *prefixes: str) -> None:
        """Drop from memory what has a name that begins with one of them."""
        self.memory = {name: value for name, value in self.memory.items() if not name.startswith(prefixes)}

    def tell(self, kind: str, **numbers: float | str | Mapping[str, float]) -> None:
        """Note what happened at this step."""
        self.events.append({"event": kind, "step": self.step, **numbers})

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs; plain values, whole, that torch loads with weights_only=True."""
        return {
            "model": saved(self.model.state_dict()),
            "optimizer": saved(self.optimizer.state_dict()),
            "masks": dict(self.masks.masks),
            "step": self.step,
            "memory": saved(self.memory),
            "split": [name for name, value in self.memory.items() if is_split(value)],
            "rng": torch.get_rng_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state, also one of more or of fewer processes."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():
            moments.update({key: _as_split(value, parameter) for key, value in moments.items() if isinstance(value, Tensor)})
        self.masks, self.step, self.memory = MaskSet(state["masks"]), state["step"], dict(state["memory"])
        for name in state.get("split", ()):
            self.memory[name] = _as_split(self.memory[name], next(self.model.parameters()))
        torch.set_rng_state(state["rng"])


def _as_split(value: Tensor, like: Tensor) -> Tensor:
    """Split as a parameter is; counters are not."""
    return split_like(value, like) if value.ndim else value
