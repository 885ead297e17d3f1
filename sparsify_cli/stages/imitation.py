"""`--effort`: the weights that stay are trained to imitate the dense network on calibration samples; kept where that helps.

high     always; where that does not help, or diverges, once more at a fifth of the rate: a network that lost little is soon worse for
large steps. What diverges at both is an error
auto     with --solver auto, where it is worth its time: a nat that pruning costs on held-out training data for every WORTH
multiply-accumulates of training. Counted, not timed, so that a run does the same on every machine.
normal   never

With --minutes it is for as many passes as are left of them, and not at all where that is less than one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.listener import Listener, Progress
from sparsify_cli.errors import Anomalous
from sparsify_cli.maths.holdout import hold_out
from sparsify_cli.maths.macs import macs_per_weight
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages.auto import NAME as AUTO
from sparsify_cli.stages.calibrate import calibration_samples, names_in, require_known
from sparsify_cli.stages.norms import held_out, move
from sparsify_cli.stages.subject import Subject
from sparsify_cli.training.augmented import augmented, require_images
from sparsify_cli.training.batchnorm import mean_loss
from sparsify_cli.training.imitate import Imitation
from sparsify_cli.values.losses import TINY
from sparsify_cli.values.report import Finding
from sparsify_cli.values.samples import Kind, Samples

SLACK = 0.1
"""Nats by which flips and shifts may raise a loss that was next to nothing."""
WORTH = 1e13
"""Multiply-accumulates of training that a nat is worth to `auto`: some five minutes of one core."""
SHARES = (1.0, 0.2)
"""Of the learning rate, one after the other until the held-out loss falls."""
MOST = 5.0
"""Nats that pruning may cost; where even that would not be worth the training, nothing is measured."""
MINUTE = WORTH / 5
"""Multiply-accumulates of training in a minute of one core, about."""
PASSES_A_STEP = 4
"""Of a network for each sample in a step: the dense one forwards, the pruned one forwards and twice as much backwards."""


@dataclass(frozen=True)
class Imitated:
    """What imitating did.

    Args:
        before, after: mean loss on held-out training samples.
        seconds: it took, with what was tried before.
        kind: of what is predicted.
        share: of the usual learning rate.
        passes: where time allowed fewer than were asked for, how many.
    """

    before: float
    after: float
    seconds: float
    kind: Kind = "classes"
    share: float = 1.0
    passes: str = ""

    @property
    def kept(self) -> bool:
        """True when it helped."""
        return self.after < self.before

    def note(self) -> str:
        """One sentence."""
        verdict = "kept" if self.kept else "put back, since it did not help"
        what, unit = held_out(self.kind)
        moved = f"{self.before:.4g} -> {self.after:.4g} {unit}".rstrip()
        rate = "" if self.share == 1 else f" (at {self.share:g} of the usual rate, which did not help)"
        return f"imitating the dense network: {what} {moved} in {self.seconds:.0f} s{rate}{self.passes}; {verdict}."

    def findings(self) -> list[Finding]:
        """Both losses as numbers."""
        what, unit = held_out(self.kind)
        text = f"Imitating the dense network: {what}, {'kept' if self.kept else 'not kept'}."
        pairs = (("imitation_loss_before", self.before), ("imitation_loss_after", self.after))
        return [Finding(name=name, value=value, unit=unit, better="lower", definition=text) for name, value in pairs]


@dataclass(frozen=True)
class Room:
    """What there is time for.

    Args:
        each: multiply-accumulates of a pass.
        passes: over the samples; 0 = there is no time for one.
        shares: of the learning rate that may be tried.
    """

    each: float
    passes: int
    shares: tuple[float, ...]

    @classmethod
    def of(cls, recipe: PruneRecipe, each: float, spent: float) -> Room:
        """All that is asked for, or what fits into the minutes that are left when so many are spent."""
        shares = SHARES if recipe.effort == "high" else SHARES[:1]
        if recipe.minutes is None:
            return cls(each, recipe.passes, shares)
        left = max(0, int((recipe.minutes - spent) * MINUTE / max(each, 1.0)))
        passes = min(recipe.passes, left)
        return cls(each, passes, shares[: max(1, left // max(passes, 1))])


@dataclass(frozen=True, eq=False)
class Attempt:
    """What imitation works with.

    Args:
        recipe: what was asked for.
        room: what there is time for.
        dense: the network that is imitated.
        inputs: calibration samples.
        judges: held-out training samples.
        masks: of the weights that stay, by the network's names.
    """

    recipe: PruneRecipe
    room: Room
    dense: nn.Module
    inputs: Tensor
    judges: Samples
    masks: Mapping[str, Tensor]

    def run(self, module: nn.Module, loss: float, listener: Listener) -> Imitated | None:
        """Train at one rate after the other until the held-out loss falls below `loss`; None where all diverged."""
        few = self.room.passes < self.recipe.passes
        fewer = f" ({self.room.passes} of {self.recipe.passes} passes, for which --minutes were enough)" if few else ""
        given, started, result = {name: tensor.clone() for name, tensor in module.state_dict().items()}, time.monotonic(), None
        for share in self.room.shares:
            module.load_state_dict(given)
            if self._trained(module, share, listener):
                result = Imitated(loss, mean_loss(module, self.judges), time.monotonic() - started, self.judges.kind, share, fewer)
            if result is not None and result.kept:
                break
        return result

    def _trained(self, module: nn.Module, share: float, listener: Listener) -> bool:
        """False when it diverged."""
        if self.recipe.augment:
            require_images(self.inputs)
        augment = self.recipe.augment > 0 or stands_augmentation(self.dense, self.judges, seed=self.recipe.seed)
        imitation = Imitation(passes=self.room.passes, augment=augment, kind=self.judges.kind, seed=self.recipe.seed)

        def tell(step: int, steps: int, now: float) -> None:
            listener.progress(Progress("imitating the dense network", step, steps, loss=now))

        try:
            replace(imitation, lr=share * imitation.lr).run(module, self.dense, self.inputs, self.masks, tell)
        except Anomalous:
            return False
        finally:
            listener.done()
        return True


@dataclass(frozen=True)
class Spared:
    """Imitation that there was no time for.

    Args:
        each: minutes of a pass.
        left: minutes.
    """

    each: float
    left: float
    kept: ClassVar[bool] = False

    def note(self) -> str:
        """One sentence."""
        return (
            f"imitating the dense network was left out: a pass takes about {self.each:.2g} minutes of one core, and of --minutes "
            f"{max(self.left, 0):.2g} are left."
        )

    def findings(self) -> list[Finding]:
        """No numbers."""
        return []


def imitated(
    recipe: PruneRecipe, before: Subject, after: Subject, *, followed: bool, listener: Listener, spent: float = 0.0
) -> tuple[Subject, Imitated | Spared | None]:
    """The pruned subject after imitation, and what that did; as it was where the recipe does not ask for it, or it is not worth its time.

    Raises:
        MissingContext: architecture or data are not known.
    """
    if not is_asked_for(recipe):
        return after, None
    require_known(f"--effort {recipe.effort}", before)
    dense, inputs = before.module(), calibration_samples(recipe, before).inputs
    counts = recipe.effort != "high" or recipe.minutes is not None
    room = Room.of(recipe, operations(dense, inputs, 1) if counts else 0.0, spent)
    cost = 0.0 if recipe.effort == "high" else recipe.passes * room.each
    if not is_worth(MOST, cost):
        return after, None
    module = _started(after, dense, inputs, moves=recipe.batchnorm and not followed)
    if any(parameter.dtype == torch.float16 for parameter in module.parameters()):  # Adam's steps are lost in half precision
        module, dense = module.float(), dense.float()
    ours = names_in(module, after)
    _, held = hold_out(len(after.samples("train")))
    judges = after.samples("train").take(held)
    loss = mean_loss(module, judges)
    if cost and not is_worth(nats_lost(loss, mean_loss(dense, judges), judges.kind), cost):
        return after, None
    if not room.passes:
        return after, Spared(room.each / MINUTE, (recipe.minutes or 0) - spent)
    masks = {ours[name]: mask for name, mask in after.masks.items()}
    result = Attempt(recipe, room, dense, inputs, judges, masks).run(module, loss, listener)
    _require_an_end(recipe, room, result)
    return (_with_tensors(after, dict(module.state_dict()), ours) if result is not None and result.kept else after), result


def _started(after: Subject, dense: nn.Module, inputs: Tensor, *, moves: bool) -> nn.Module:
    """The pruned network, where asked for with batch-norm statistics that moved with the inputs."""
    module = after.module()
    if moves:
        move(module, dense, inputs)
    return module


def _require_an_end(recipe: PruneRecipe, room: Room, result: Imitated | None) -> None:
    """Auto does without what diverges; who asked for imitation is told."""
    if result is None and recipe.effort == "high":
        rates, more = "at the usual rate and at a fifth of it", "Prune less, or leave --effort high away."
        if len(room.shares) < len(SHARES):
            rates, more = "at the usual rate", "Give more --minutes, which are too few for a smaller rate; or prune less."
        raise Anomalous(f"Imitating the dense network failed or diverged, {rates}.", "Its loss, or a gradient, is no number.", more)


def is_asked_for(recipe: PruneRecipe) -> bool:
    """True when a recipe may train: by --effort high, or by auto where the solver is auto as well."""
    return recipe.effort == "high" or (recipe.effort == "auto" and recipe.solver is not None and recipe.solver.name == AUTO)


def is_worth(lost: float, operations: float) -> bool:
    """True when what pruning cost is worth the training against it.

    Args:
        lost: nats that the held-out loss rose by; may be negative.
        operations: multiply-accumulates of the training.
    """
    return lost * WORTH >= operations


def nats_lost(now: float, dense: float, kind: Kind) -> float:
    """What pruning cost; of numbers by the likelihood of a normal distribution about each, as wide as errors are.

    Args:
        now: mean loss of the pruned network.
        dense: of the dense one.
        kind: of what is predicted.
    """
    return math.log(max(now, TINY) / max(dense, TINY)) / 2 if kind == "numbers" else now - dense


def operations(module: nn.Module, inputs: Tensor, passes: int) -> float:
    """Multiply-accumulates of imitating a network."""
    once = sum(uses * _numbers(module, name) for name, uses in macs_per_weight(module, inputs).items())
    return float(PASSES_A_STEP * passes * len(inputs) * once)


def _numbers(module: nn.Module, name: str) -> int:
    """How many numbers a weight has, be it a parameter, a buffer, or made of others (weight norm)."""
    owner, _, leaf = name.rpartition(".")
    weight: Tensor = getattr(module.get_submodule(owner), leaf)
    return weight.numel()


def stands_augmentation(dense: nn.Module, judges: Samples, *, seed: int) -> bool:
    """True when flipped and shifted images are like what a network was trained with: its loss on them is hardly more.

    Args:
        dense: the network.
        judges: held-out training samples; False where they are no images.
        seed: of the flips.
    """
    if judges.inputs.ndim != 4 or not judges.inputs.is_floating_point():
        return False
    turned = replace(judges, inputs=augmented(judges.inputs, copies=1, seed=seed))
    return mean_loss(dense, turned) <= 2 * mean_loss(dense, judges) + SLACK


def _with_tensors(subject: Subject, state: Mapping[str, Tensor], ours: Mapping[str, str]) -> Subject:
    """The subject with a network's tensors, in the checkpoint's own number types."""
    tensors = {
        name: state[ours[name]].detach().to(tensor.dtype) if ours[name] in state else tensor
        for name, tensor in subject.checkpoint.tensors.items()
    }
    return replace(subject, checkpoint=subject.checkpoint.with_tensors(tensors))
