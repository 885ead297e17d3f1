"""`--effort high`: the weights that stay are trained to imitate the dense network on calibration samples; kept where that helps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from sparsify_cli.contracts.listener import Listener, Progress
from sparsify_cli.maths.holdout import hold_out
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages.calibrate import calibration_samples, names_in, require_known
from sparsify_cli.stages.norms import HELD_OUT, move
from sparsify_cli.stages.subject import Subject
from sparsify_cli.training.augmented import augmented, require_images
from sparsify_cli.training.batchnorm import cross_entropy
from sparsify_cli.training.imitate import Imitation
from sparsify_cli.values.report import Finding
from sparsify_cli.values.samples import Samples

SLACK = 0.1
"""Nats by which flips and shifts may raise a loss that was next to nothing."""


@dataclass(frozen=True)
class Imitated:
    """What imitating did.

    Args:
        before, after: mean cross-entropy on held-out training samples, nats.
        seconds: it took.
    """

    before: float
    after: float
    seconds: float

    @property
    def kept(self) -> bool:
        """True when it helped."""
        return self.after < self.before

    def note(self) -> str:
        """One sentence."""
        verdict = "kept" if self.kept else "put back, since it did not help"
        return f"imitating the dense network: {HELD_OUT} {self.before:.4g} -> {self.after:.4g} nats in {self.seconds:.0f} s; {verdict}."

    def findings(self) -> list[Finding]:
        """Both losses as numbers."""
        text = f"Imitating the dense network: {HELD_OUT}, {'kept' if self.kept else 'not kept'}."
        pairs = (("imitation_loss_before", self.before), ("imitation_loss_after", self.after))
        return [Finding(name=name, value=value, unit="nats", better="lower", definition=text) for name, value in pairs]


def imitated(
    recipe: PruneRecipe, before: Subject, after: Subject, *, followed: bool, listener: Listener
) -> tuple[Subject, Imitated | None]:
    """The pruned subject after imitation, and what that did; as it was where the recipe does not ask for it.

    Raises:
        MissingContext: architecture or data are not known.
    """
    if recipe.effort != "high":
        return after, None
    require_known("--effort high", before)
    module, dense, started = after.module(), before.module(), time.monotonic()
    inputs = calibration_samples(recipe, before).inputs
    if recipe.batchnorm and not followed:
        move(module, dense, inputs)
    ours = names_in(module, after)
    _, held = hold_out(len(after.samples("train")))
    judges = after.samples("train").take(held)
    loss = cross_entropy(module, judges)
    masks = {ours[name]: mask for name, mask in after.masks.items()}

    def tell(step: int, steps: int, now: float) -> None:
        listener.progress(Progress("imitating the dense network", step, steps, loss=now))

    if recipe.augment:
        require_images(inputs)
    augment = recipe.augment > 0 or stands_augmentation(dense, judges, seed=recipe.seed)
    Imitation(passes=recipe.passes, augment=augment, seed=recipe.seed).run(module, dense, inputs, masks, tell)
    listener.done()
    result = Imitated(loss, cross_entropy(module, judges), time.monotonic() - started)
    return (_with_tensors(after, dict(module.state_dict()), ours), result) if result.kept else (after, result)


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
    return cross_entropy(dense, turned) <= 2 * cross_entropy(dense, judges) + SLACK


def _with_tensors(subject: Subject, state: Mapping[str, Tensor], ours: Mapping[str, str]) -> Subject:
    """The subject with a network's tensors, in the checkpoint's own number types."""
    tensors = {
        name: state[ours[name]].detach().to(tensor.dtype) if ours[name] in state else tensor
        for name, tensor in subject.checkpoint.tensors.items()
    }
    return replace(subject, checkpoint=subject.checkpoint.with_tensors(tensors))
